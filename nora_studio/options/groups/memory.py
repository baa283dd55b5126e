"""The trainer's options that decide memory and speed, and nothing of what is learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nora_studio.errors import StudioError
from nora_studio.options.groups.checks import check_above_zero


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """What the frozen base is computed with."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the frozen base; adapters train in fp32. auto: bf16 on a GPU, fp32 on a CPU."""


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """How the frozen base saves memory."""

    base_bits: Literal[16, 8, 4] = 16
    """Bits of the frozen base's attention blocks: 16 leaves them in the precision, 8 or 4 quantise
    them (bitsandbytes). The adapter belongs to the ordinary base all the same."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """How attention is computed, and how all that is measured beforehand."""

    attention: Literal["auto", "math", "efficient", "flash", "cudnn", "eager", "xformers"] = "auto"
    """What computes the UNet's attention: torch's own choice, one of its kernels, or xformers;
    eager: plain products, in the text encoders too."""
    preflight: bool = False
    """Measure instead of training: real steps on the largest pictures, a sample, a checkpoint and
    a proof, then what the whole run would need of memory, disk and time. Nothing is kept."""
    preflight_out: Path | None = None
    """JSON file for what the preflight measured."""
    fit: float | None = None
    """GiB of memory that the run has to fit in: settings that save memory are tried out in turn, in
    preflights, until one fits. With --preflight: whether the settings as they are would fit."""


def check_memory_options(options: MemoryOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such.
    """
    check_above_zero(options, ("fit",))
    if options.preflight_out is not None and not options.preflight:
        raise StudioError("--preflight-out: a setting of --preflight, which is off.")
