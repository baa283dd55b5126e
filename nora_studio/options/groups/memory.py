"""Options that change memory and speed, but not what is learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nora_studio.options.groups.checks import check_above_zero, without_effect


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """Precision."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen base; adapters train in fp32. auto: bf16 on a GPU, fp32 on a
    CPU."""


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """Memory of the frozen base."""

    base_bits: Literal[16, 8, 4] = 16
    """Bits of the frozen base's attention blocks: 16 for `precision`, 8 or 4 to quantise them
    (bitsandbytes). The adapter can be used with the base without quantisation."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """Attention, and measuring a run before it starts."""

    attention: Literal["auto", "math", "efficient", "flash", "cudnn", "eager", "xformers"] = "auto"
    """Implementation of the UNet's attention: torch's own choice, one of its kernels, or xformers;
    eager: plain matrix products, in the text encoders too."""
    preflight: bool = False
    """Measure instead of training: run real steps on the largest images, a sample, a checkpoint and
    a verification, and report the memory, disk space and time of the whole run. Nothing is kept."""
    preflight_out: Path | None = None
    """JSON file for the results of the preflight."""
    fit: float | None = None
    """Memory in GiB that the run must fit in: settings that save memory are measured by preflights
    in turn, until they fit. With --preflight: report whether the given settings fit."""


def check_memory_options(options: MemoryOptions) -> None:
    """Refuse values out of range, and options without effect.

    Raises:
        StudioError: an option is refused.
    """
    check_above_zero(options, ("fit",))
    if options.preflight_out is not None and not options.preflight:
        raise without_effect("preflight_out", "--preflight")
