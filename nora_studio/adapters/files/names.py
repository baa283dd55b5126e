"""The names of layers in adapter files: diffusers' module names, and Kohya's.

Stable Diffusion's original code (SGM) numbers all blocks of the UNet in sequence. Kohya's trainer,
and after it ComfyUI and A1111, name SDXL's layers by those numbers. The text encoders keep their
names from transformers, from releases in which every name began with "text_model.".
"""

import re
from collections.abc import Iterable

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from nora_studio.errors import StudioError

KOHYA_PREFIXES = {
    "unet": "lora_unet_",
    "text_encoder": "lora_te1_",
    "text_encoder_2": "lora_te2_",
}
TEXT_PREFIX = "text_model."
_UNET_SINGLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|mid_block)\."
    r"(attentions|resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)


def sgm_name(name: str, layers_per_block: int, attention_blocks: Iterable[int] = ()) -> str:
    """Return a UNet layer's name in the original code, from its name in diffusers.

    Args:
        name: Such as "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q".
        layers_per_block: The UNet's; SDXL has 2.
        attention_blocks: Numbers of the up blocks with attention; needed for their upsamplers.

    Raises:
        StudioError: the layer has no name there.
    """
    if name in _UNET_SINGLE:
        return _UNET_SINGLE[name]
    match = _BLOCK.fullmatch(name)
    if match is None:
        raise StudioError(
            f"{name} has no name in Kohya's format. Export to diffusers' format instead."
        )
    direction, block, kind, index, rest = (
        match[1],
        int(match[2] or 0),
        match[3],
        int(match[4]),
        match[5],
    )
    stride = layers_per_block + 1
    if kind == "resnets":
        rest = _RESNET.get(rest, rest)
    if direction is None:
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{stride * (block + 1)}.0.op"
    if kind == "upsamplers":
        place = 2 if block in set(attention_blocks) else 1
        return f"output_blocks.{stride * block + layers_per_block}.{place}.conv"
    row = (
        f"input_blocks.{1 + stride * block + index}"
        if direction == "down"
        else (f"output_blocks.{stride * block + index}")
    )
    return f"{row}.{1 if kind == 'attentions' else 0}.{rest}"


def text_name(name: str) -> str:
    """Return a text encoder layer's name as in files, whatever this transformers release uses."""
    if name.startswith(TEXT_PREFIX) or name == "text_projection":
        return name
    return TEXT_PREFIX + name


class LayerNames:
    """The names of one base's layers in both formats, in both directions."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        """Read the names from the base's modules; weights are not read.

        Args:
            parts: The base's modules by part, with or without adapters.
        """
        self.layers_per_block = 2
        self.attention_blocks: tuple[int, ...] = ()
        self._names: dict[str, list[str]] = {}
        for part, module in parts.items():
            self._names[part] = _layer_names(module)
            if part == "unet":
                self._read_block_layout(module)

    def _read_block_layout(self, unet: nn.Module) -> None:
        layers = unet.config["layers_per_block"]  # pyright: ignore
        if not isinstance(layers, int):
            raise StudioError(
                "expected one number of layers for all blocks of the UNet, as Kohya's names need; "
                f"got layers_per_block {layers}. Use a UNet that is built like SDXL's."
            )
        self.layers_per_block = layers
        up = unet.config["up_block_types"]  # pyright: ignore
        self.attention_blocks = tuple(i for i, kind in enumerate(up) if "Attn" in kind)

    def diffusers(self, part: str, name: str) -> str:
        """Return a layer's key in diffusers' format, without the tensor's ending."""
        return f"{part}.{name if part == 'unet' else text_name(name)}"

    def kohya(self, part: str, name: str) -> str:
        """Return a layer's key in Kohya's format, without the tensor's ending.

        Raises:
            StudioError: that format has no name for it.
        """
        if part == "unet":
            name = sgm_name(name, self.layers_per_block, self.attention_blocks)
        else:
            name = text_name(name)
        return KOHYA_PREFIXES[part] + name.replace(".", "_")

    def layers_by_key(self) -> dict[str, tuple[str, str]]:
        """Map every key of a layer that files use to the layer's part and name."""
        found: dict[str, tuple[str, str]] = {}
        for part, names in self._names.items():
            for name in names:
                place = (part, name)
                found[f"{part}.{name}"] = place
                found[self.diffusers(part, name)] = place
                plain = KOHYA_PREFIXES[part] + name.replace(".", "_")
                found[plain] = place  # diffusers' names with Kohya's prefix and separators
                try:
                    found[self.kohya(part, name)] = place
                except StudioError:
                    continue  # the layer has no name in Kohya's format
        return found


def _layer_names(module: nn.Module) -> list[str]:
    """Return the names of the layers that LoRA can adapt, without those inside adapters."""
    names = []
    for name, layer in module.named_modules():
        if ".base_layer" in name or "lora_" in name or "nora_" in name:
            continue
        base = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
        if isinstance(base, nn.Linear | nn.Conv2d):
            names.append(name)
    return names
