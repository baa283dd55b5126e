"""The trainer's options that decide memory and speed, and nothing of what is learned."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """How the frozen base is held and computed with."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the frozen base; adapters train in fp32. auto: bf16 on a GPU, fp32 on a CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""


def check_memory_options(options: MemoryOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such.
    """
