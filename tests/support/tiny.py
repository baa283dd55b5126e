"""Real models small enough for tests: an SDXL pipeline and a CLIP, always the same random weights.

Both are built and saved in well under a second, so that tests use the true classes of diffusers,
transformers and open_clip instead of stand-ins.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from nora_studio import __version__
from nora_studio.adapters.files.adapter_folders import save_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import adapter_parameters, attach, detach
from nora_studio.sdxl.models import targets_for
from support.specs import spec_of

SIZE = 32
"""Height and width of the tiny pipeline's pictures, pixels."""

RARE_TOKEN = "sks"
"""A word that the tiny tokenizer knows as one token."""

CAPTIONS = (
    "a photo of sks mug",
    "a photo of a mug in the snow",
    "a photo of a dog on the beach",
    "a pencil sketch of a robot in the forest",
)


def tiny_tokenizer() -> CLIPTokenizer:
    """Train CLIP's byte-level BPE on a few captions; their words become single tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=1000,
        min_frequency=2,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(CAPTIONS * 4, trainer)
    merges: Any = [
        tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair)
        for pair in json.loads(bpe.to_str())["model"]["merges"]
    ]
    words = alphabet + [letter + "</w>" for letter in alphabet]
    words += [left + right for left, right in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def tiny_text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    ids: Any = tokenizer  # Typed as if a token might have several.
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=32,
        hidden_act="gelu",
        bos_token_id=ids.bos_token_id,
        eos_token_id=ids.eos_token_id,
        pad_token_id=ids.pad_token_id,
    )


def tiny_unet(widest: int = 64) -> UNet2DConditionModel:
    """Two levels, cross attention of width 64 and SDXL's pooled text and six time ids."""
    of_levels: dict[str, Any] = {  # Typed as if there were one level.
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
    }
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, widest),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        **of_levels,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        norm_num_groups=8,
    )


def tiny_vae() -> AutoencoderKL:
    """Four levels, so that pictures shrink eightfold as in SDXL; scaling factor 0.5, not 1."""
    of_levels: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 16, 16),
    }
    return AutoencoderKL(
        **of_levels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
        scaling_factor=0.5,
        force_upcast=False,
    )


def tiny_sdxl(folder: Path, seed: int = 0) -> Path:
    """Save a float32 SDXL pipeline of 32-pixel pictures; another seed gives other weights."""
    tokenizer = tiny_tokenizer()
    scheduler: Any = EulerDiscreteScheduler(  # Typed as the name of one.
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = StableDiffusionXLPipeline(
            vae=tiny_vae(),
            text_encoder=CLIPTextModel(tiny_text_config(tokenizer)),
            text_encoder_2=CLIPTextModelWithProjection(tiny_text_config(tokenizer)),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=tiny_unet(),
            scheduler=scheduler,
            add_watermarker=False,
        )
    pipe.save_pretrained(folder)
    return Path(folder)


def tiny_adapter(
    folder: Path, pipe: StableDiffusionXLPipeline, method: str, strength: float = 0.3
) -> Path:
    """Save a rank-2 adapter on the attention of the UNet and the first encoder, far from zero."""
    parts = {part: getattr(pipe, part) for part in ("unet", "text_encoder")}
    total = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for part, module in parts.items():
            attach(module, targets_for(part), spec_of(method, 2, outer_rank=8))
            for parameter in adapter_parameters(module).values():
                parameter.data += strength * torch.randn_like(parameter)
                total += parameter.numel()
    card = AdapterCard(
        method=method,
        model="tiny",
        fingerprints={part: fingerprint(module) for part, module in parts.items()},
        trigger=RARE_TOKEN,
        prompt="a photo of a [V] mug",
        resolution=SIZE,
        steps=10,
        seed=0,
        parameters=total,
        version=__version__,
    )
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_adapter(folder, parts, card)
    for module in parts.values():
        detach(module)
    return folder


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Save an open_clip folder: 32-pixel image tower, one text layer, CLIP's own tokenizer."""
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model_config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**model_config)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def states(parts) -> dict[str, torch.Tensor]:
    """Every tensor of every part, copied."""
    return {
        f"{part}.{name}": tensor.clone()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def assert_same_tensors(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert torch.equal(tensor, other[name]), name
