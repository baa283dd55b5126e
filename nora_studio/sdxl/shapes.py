"""Models without weights, on the meta device, for counting and checking."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
)

from nora_studio.errors import StudioError, first_line
from nora_studio.mini.assets import EMBEDDED, embedded
from nora_studio.sdxl.models import PARTS

SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
}
"""The values of stabilityai/stable-diffusion-xl-base-1.0's UNet config.json that decide shapes."""


def _sdxl() -> dict[str, nn.Module]:
    return {
        "unet": _unet(SDXL_UNET),
        "text_encoder": CLIPTextModel(text_config(768, 12, 12)),
        "text_encoder_2": CLIPTextModelWithProjection(text_config(1280, 32, 20)),
    }


def _unet(config: dict[str, Any]) -> nn.Module:
    return UNet2DConditionModel.from_config(config)  # pyright: ignore[reportReturnType]


def text_config(
    width: int, layers: int, heads: int, activation: str = "quick_gelu"
) -> CLIPTextConfig:
    """Return the configuration of a CLIP text encoder of SDXL's family."""
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act=activation,
    )


def _llama(ffn: int, heads: int, vocabulary: int) -> dict[str, nn.Module]:
    """Build a LLaMA of width 4096 with 32 layers; `heads` are those of keys and values."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=4096,
        intermediate_size=ffn,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=heads,
    )
    return {"model": LlamaForCausalLM(config)}


def _clip_vit_b_16() -> dict[str, nn.Module]:
    config = CLIPConfig(vision_config={"patch_size": 16}, text_config={}, projection_dim=512)
    return {"model": CLIPModel(config)}


BUILT_IN: dict[str, Callable[[], dict[str, nn.Module]]] = {
    "sdxl": _sdxl,
    "llama-1-7b": lambda: _llama(11008, 32, 32000),
    "llama-3-8b": lambda: _llama(14336, 8, 128256),
    "clip-vit-b-16": _clip_vit_b_16,
    EMBEDDED: lambda: _directory(embedded("mini-sdxl")),
}
"""Models by name. The embedded one's shapes are read from its own configurations."""


def shapes_of(model: str) -> dict[str, nn.Module]:
    """Return a model's parts on the meta device, by part name; "model" if it has no parts.

    Args:
        model: A name in `BUILT_IN`; a diffusers SDXL directory or its `unet/`; or a directory with
            a transformers config.json.

    Raises:
        StudioError: `model` is none of these.
    """
    with torch.device("meta"):
        if model in BUILT_IN:
            return BUILT_IN[model]()
        return _directory(Path(model).expanduser())


def _directory(folder: Path) -> dict[str, nn.Module]:
    parts = [part for part in PARTS if (folder / part / "config.json").is_file()]
    if parts:
        return {part: _from_config(folder / part) for part in parts}
    if (folder / "config.json").is_file():
        return {"model": _from_config(folder)}
    raise StudioError(
        f"--model: expected one of {', '.join(BUILT_IN)}, or a directory with a config.json (or "
        f"with unet/config.json in it); got {str(folder)!r}."
    )


def _from_config(folder: Path) -> nn.Module:
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values.get("_class_name") == "UNet2DConditionModel":
            return _unet(values)
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        kind: Any = getattr(transformers, (values.get("architectures") or [""])[0], None)
        return AutoModel.from_config(config) if kind is None else kind(config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StudioError(
            f"--model: {file} does not describe a known model: "
            f"{first_line(error).rstrip('.')}. Check the folder."
        ) from error
