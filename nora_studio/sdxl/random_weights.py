"""A full-size SDXL with random weights: the real configurations, file layout and vocabulary.

Its images mean nothing, but step time, memory, start-up time and file sizes are the real ones'.
"""

import gzip
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from nora_studio.sdxl.shapes import SDXL_UNET, text_config

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def build_random_sdxl(folder: Path) -> None:
    """Build the pipeline with random weights and save it in bfloat16, about 7 GiB."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        unet: Any = UNet2DConditionModel.from_config(SDXL_UNET)
        vae: Any = AutoencoderKL.from_config(VAE)
        first = CLIPTextModel(text_config(768, 12, 12, "quick_gelu"))
        second = CLIPTextModelWithProjection(text_config(1280, 32, 20, "gelu"))
    torch.set_default_dtype(torch.float32)
    tokenizer = _clip_tokenizer()
    scheduler: Any = EulerDiscreteScheduler.from_config(SCHEDULER)
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)


def _clip_tokenizer() -> CLIPTokenizer:
    """Build CLIP's tokenizer from the merges that come with open_clip."""
    file = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # pyright: ignore[reportArgumentType] - pairs, as the class stores them
        model_max_length=77,
    )
