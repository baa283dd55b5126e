"""Sizes and builders of the miniature SDXL: all parts of the full model, each small."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from open_clip import CLIP
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from nora_studio.mini.pretrain.tokenizer import CONTEXT_LENGTH, END, START

IMAGE_SIZE = 256
LATENT_CHANNELS = 8
LATENT_SIZE = IMAGE_SIZE // 8
TEXT_WIDTH = 128
CONTEXT_WIDTH = 2 * TEXT_WIDTH  # both encoders' hidden states side by side, as in SDXL
POOLED_WIDTH = 128
CLIP_IMAGE_SIZE = 128
CLIP_CONTEXT_LENGTH = 48
"""The world's captions need 40 tokens at most; scoring encodes many of them."""


def build_text_encoders(
    tokenizer: CLIPTokenizer,
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Build two CLIP text towers of four layers; the second's projection is the pooled vector."""
    token_ids = tokenizer.get_vocab()

    def config() -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_LENGTH,
            projection_dim=POOLED_WIDTH,
            hidden_act="gelu",
            bos_token_id=token_ids[START],
            eos_token_id=token_ids[END],
            pad_token_id=token_ids[END],
        )

    return CLIPTextModel(config()), CLIPTextModelWithProjection(config())


def build_vae() -> AutoencoderKL:
    """Build an 8x autoencoder with 8 latent channels; they are standardised after training."""
    channels = (24, 48, 96, 128)
    levels: dict[str, Any] = {  # diffusers' own annotations allow one level only
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
    }
    return AutoencoderKL(
        **levels,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
        force_upcast=False,
    )


def build_unet() -> UNet2DConditionModel:
    """Build a UNet of 13.4 M weights in SDXL's layout: one block without attention, two with."""
    time_id_width = 32
    levels: dict[str, Any] = {  # diffusers' own annotations allow one level only
        "block_out_channels": (64, 128, 160),
        "attention_head_dim": (2, 4, 5),  # diffusers' name for the number of heads
        "transformer_layers_per_block": (1, 1, 1),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    }
    return UNet2DConditionModel(
        **levels,
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        act_fn="silu",
        addition_embed_type="text_time",
        addition_time_embed_dim=time_id_width,
        cross_attention_dim=CONTEXT_WIDTH,
        layers_per_block=2,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * time_id_width,
        use_linear_projection=True,
        norm_num_groups=16,
    )


def build_scheduler() -> EulerDiscreteScheduler:
    """Build SDXL's noise schedule and sampler."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        timestep_spacing="leading",
        steps_offset=1,
        prediction_type="epsilon",
    )


def clip_config(vocab_size: int) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of the scoring model."""
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": CLIP_IMAGE_SIZE,
            "patch_size": 8,
            "width": 192,
            "head_width": 64,
            "layers": 8,
        },
        "text_cfg": {
            "context_length": CLIP_CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "mini-clip",  # any name: the tokenizer is in the local folder
            "tokenizer_kwargs": {"clean": "whitespace"},
            "width": 128,
            "heads": 4,
            "layers": 4,
            "mlp_ratio": 3.0,
        },
    }


def build_clip(vocab_size: int) -> CLIP:
    """Build the scoring CLIP: a vision transformer of fine patches with its own text tower."""
    return CLIP(**clip_config(vocab_size))


def build_pipeline(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
) -> StableDiffusionXLPipeline:
    """Combine the parts and a scheduler in one pipeline."""
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),  # pyright: ignore[reportArgumentType]
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def encode_text(
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection,
    ids: Tensor,  # (batch, tokens)
) -> tuple[Tensor, Tensor]:  # (batch, tokens, CONTEXT_WIDTH), (batch, POOLED_WIDTH)
    """Return SDXL's conditioning of a prompt: penultimate hidden states and pooled vector."""
    first = text_encoder(ids, output_hidden_states=True)
    second = text_encoder_2(ids, output_hidden_states=True)
    hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    return hidden, second.text_embeds


def count_parameters(module: torch.nn.Module) -> int:
    """Return the number of weights of a module."""
    return sum(weight.numel() for weight in module.parameters())
