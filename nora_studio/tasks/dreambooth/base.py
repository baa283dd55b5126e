"""Load the base of a DreamBooth run."""

import torch
from diffusers import StableDiffusionXLPipeline

from nora_studio.sdxl.base import load_base
from nora_studio.tasks.dreambooth.settings import BaseSettings


def load_base_of(
    base: BaseSettings, dtype: torch.dtype, device: torch.device
) -> StableDiffusionXLPipeline:
    """Load a run's base, for training as for verification.

    Raises:
        StudioError: the base cannot be loaded, or this device does not support a setting.
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
