"""The implementation of the UNet's attention: torch's choice, one of its kernels, or another one.

`set_attention_backend` of diffusers has no effect on SDXL's UNets: their processors call torch
directly, which chooses a kernel itself unless one is set.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from nora_studio.errors import StudioError, first_line

KERNELS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


class KernelAttention(AttnProcessor2_0):
    """diffusers' attention with one fixed kernel of torch."""

    def __init__(self, kernel: SDPBackend) -> None:
        super().__init__()
        self.kernel = kernel

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute attention with this kernel."""
        with sdpa_kernel(self.kernel):
            return super().__call__(*args, **kwargs)


def set_attention(
    pipe: StableDiffusionXLPipeline, which: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Set how a pipeline's UNet computes attention; "eager" applies to the text encoders too.

    Args:
        which: A choice of `MemoryOptions.attention`.
        dtype: The dtype that attention is computed in.
        device: The device that it is computed on.

    Raises:
        StudioError: the implementation is not installed, or not available on this device in this
            dtype.
    """
    if which == "auto":
        return
    if which == "eager":
        pipe.unet.set_attn_processor(AttnProcessor())
        for encoder in (pipe.text_encoder, pipe.text_encoder_2):
            encoder.set_attn_implementation("eager")
    elif which == "xformers":
        try:
            pipe.unet.enable_xformers_memory_efficient_attention()
        except (ModuleNotFoundError, ValueError, NotImplementedError) as error:
            raise StudioError(
                f"--attention xformers: {first_line(error).rstrip('.')}. Run `pip install "
                "xformers` on a machine with a GPU, or leave the option out: torch's own kernels "
                "are as good."
            ) from error
    else:
        _check_kernel(which, dtype, device)
        pipe.unet.set_attn_processor(KernelAttention(KERNELS[which]))


def _check_kernel(which: str, dtype: torch.dtype, device: torch.device) -> None:
    """Run a kernel forward and backward on a small input."""
    query = torch.zeros(1, 2, 16, 64, dtype=dtype, device=device, requires_grad=True)
    try:
        with warnings.catch_warnings(), sdpa_kernel(KERNELS[which]):
            warnings.simplefilter("ignore")  # About kernels that were skipped.
            F.scaled_dot_product_attention(query, query, query).sum().backward()
    except RuntimeError as error:
        raise StudioError(
            f"--attention {which}: torch {torch.__version__} has no such kernel for {dtype} on "
            f"{device.type}. Leave the option out to let torch choose."
        ) from error
