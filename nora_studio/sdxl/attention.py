"""What computes the UNet's attention: torch's choice, one of its kernels, plain products, xformers.

diffusers' own `set_attention_backend` passes the UNets of SDXL's kind by: their processors call
torch directly, which chooses a kernel by itself unless it is told one.
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
    """diffusers' attention with one of torch's kernels and no other."""

    def __init__(self, kernel: SDPBackend) -> None:
        super().__init__()
        self.kernel = kernel

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute attention by the one kernel."""
        with sdpa_kernel(self.kernel):
            return super().__call__(*args, **kwargs)


def set_attention(
    pipe: StableDiffusionXLPipeline, which: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Have a pipeline's UNet compute its attention in one way; "eager" goes for text encoders too.

    Args:
        which: A choice of `MemoryOptions.attention`.
        dtype: That attention is computed in.
        device: That it is computed on.

    Raises:
        StudioError: it is not installed, or cannot be had on this device in this dtype.
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
                f"--attention xformers: {first_line(error)} `pip install xformers` on a "
                "machine with a GPU, or leave the option out: torch's own kernels are as good."
            ) from error
    else:
        _check_kernel(which, dtype, device)
        pipe.unet.set_attn_processor(KernelAttention(KERNELS[which]))


def _check_kernel(which: str, dtype: torch.dtype, device: torch.device) -> None:
    """Try a kernel on a few numbers, forward and back."""
    query = torch.zeros(1, 2, 16, 64, dtype=dtype, device=device, requires_grad=True)
    try:
        with warnings.catch_warnings(), sdpa_kernel(KERNELS[which]):
            warnings.simplefilter("ignore")  # Which kernels were passed over, and why.
            F.scaled_dot_product_attention(query, query, query).sum().backward()
    except RuntimeError as error:
        raise StudioError(
            f"--attention {which}: torch {torch.__version__} has no such kernel for {dtype} on "
            f"{device.type}. Leave the option out to have it choose."
        ) from error
