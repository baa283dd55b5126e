"""`nora-studio mix`: add several adapters up, exactly, in one LoRA file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Add several adapters up in one LoRA file; their ranks add up, so nothing is lost."""

    adapters: tuple[Path, ...]
    """Run folders, adapter folders, checkpoints or adapter files, all of one base."""
    weights: tuple[float, ...] = ()
    """Factor on each adapter's change, in the same order. None given: 1 for each."""
    to: Literal["kohya", "diffusers"] = "kohya"
    """Format. kohya: for ComfyUI, A1111, Forge and Kohya's scripts; diffusers: for
    `load_lora_weights`."""
    out: Path = Path("mix.safetensors")
    """File to write."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Number format of the weights."""
    rank: int | None = None
    """Reduce the LoRA to this rank and print the error. None: its full rank."""
    model: str | None = None
    """Base model. None: the one they were trained on."""
