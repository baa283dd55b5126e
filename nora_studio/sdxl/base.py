"""Load the frozen base of a training, quantised and with its attention set."""

import contextlib
from collections.abc import Collection, Iterator
from typing import Literal

import torch
from diffusers import StableDiffusionXLPipeline
from torch import nn

from nora_studio.adapters.base_digests import disable_disk_cache
from nora_studio.sdxl.attention import set_attention
from nora_studio.sdxl.models import load_sdxl, parts_of
from nora_studio.sdxl.quantization import check_quantizer, quantize, shared_state


def load_base(
    model: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    bits: Literal[16, 8, 4] = 16,
    quantized: Collection[str] = (),
    attention: str = "auto",
    cache: bool = True,
) -> StableDiffusionXLPipeline:
    """Load the base of a training, in the same way for the trainer and for verification.

    Args:
        model: "embedded", a diffusers directory, or a Hub name.
        dtype: Dtype of the arithmetic, and of the weights that are not quantised.
        device: Device of the quantised layers.
        bits: Bits of the quantised parts' weights; 16: no quantisation.
        quantized: The names of these parts.
        attention: The UNet's attention, as `set_attention` takes it.
        cache: Whether digests of the weights may be cached on disk.

    Returns:
        The pipeline on the CPU, except for quantised layers, which are on the device.

    Raises:
        StudioError: the base cannot be loaded, or an option is not available on this device.
    """
    check_quantizer(bits)
    pipe = load_sdxl(model, dtype)
    if not cache:
        for module in parts_of(pipe).values():
            disable_disk_cache(module)
    if bits != 16:
        for part, module in parts_of(pipe).items():
            if part in quantized:
                quantize(part, module, bits, device)
    set_attention(pipe, attention, dtype, device)
    return pipe


@contextlib.contextmanager
def at_rest(pipe: StableDiffusionXLPipeline) -> Iterator[None]:
    """Move a pipeline's modules off the GPU for a block, including those with shared weights.

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
