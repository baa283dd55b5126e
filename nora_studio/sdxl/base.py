"""The frozen base of a training, as its options want it: loaded, quantised, its attention set."""

import contextlib
from collections.abc import Iterator

import torch
from diffusers import StableDiffusionXLPipeline
from torch import nn

from nora_studio.adapters.base_digests import disable_disk_cache
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.part_settings import part_settings
from nora_studio.sdxl.attention import set_attention
from nora_studio.sdxl.models import load_sdxl, parts_of
from nora_studio.sdxl.quantization import check_quantizer, quantize, shared_state


def load_base(
    options: DreamboothOptions, dtype: torch.dtype, device: torch.device
) -> StableDiffusionXLPipeline:
    """Load the base of a training: the same for the trainer and for the proof.

    Quantised are the UNet and the text encoders that are trained. The others rest on the CPU
    through all steps, where their bits cost nothing.

    Returns:
        The pipeline on the CPU, but for quantised layers, which are on the device.

    Raises:
        StudioError: it cannot be loaded, or an option cannot be had on this device.
    """
    check_quantizer(options.base_bits)
    pipe = load_sdxl(options.model, dtype)
    if not options.cache:
        for module in parts_of(pipe).values():
            disable_disk_cache(module)
    if options.base_bits != 16:
        trained = {part for method in options.methods for part in part_settings(options, method)}
        for part, module in parts_of(pipe).items():
            if part == "unet" or part in trained:
                quantize(part, module, options.base_bits, device)
    set_attention(pipe, options.attention, dtype, device)
    return pipe


@contextlib.contextmanager
def at_rest(pipe: StableDiffusionXLPipeline) -> Iterator[None]:
    """A pipeline's modules off the GPU for a block, whoever shares their weights.

    Quantised ones stay: they are small, and their scales do not move with them.
    """
    modules = [module for module in pipe.components.values() if isinstance(module, nn.Module)]
    homes = [(module, next(module.parameters()).device) for module in modules]
    homes = [(m, home) for m, home in homes if home.type == "cuda" and not shared_state(m)]
    try:
        for module, _ in homes:
            module.to("cpu")
        yield
    finally:
        for module, home in homes:
            module.to(home)
