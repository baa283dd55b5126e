"""The base of a DreamBooth run, as its settings want it."""

import torch
from diffusers import StableDiffusionXLPipeline

from nora_studio.sdxl.base import load_base
from nora_studio.tasks.dreambooth.settings import BaseSettings


def load_base_of(
    base: BaseSettings, dtype: torch.dtype, device: torch.device
) -> StableDiffusionXLPipeline:
    """Load a run's base: the same for the trainer and for the proof.

    Raises:
        StudioError: it cannot be loaded, or a setting cannot be had on this device.
    """
    return load_base(
        base.model,
        dtype,
        device,
        bits=base.bits,
        quantized=base.quantized,
        attention=base.attention,
        cache=base.cache,
    )
