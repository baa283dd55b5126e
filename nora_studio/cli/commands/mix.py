"""`nora-studio mix`: several adapters in one LoRA file, exactly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Add several adapters up into one LoRA file; ranks add up, so nothing is lost."""

    adapters: tuple[Path, ...]
    """Run folders, adapter folders, checkpoints or adapter files, all for one base."""
    weights: tuple[float, ...] = ()
    """Factor on each adapter's change, in the same order. None given: 1 for each."""
    to: Literal["kohya", "diffusers"] = "kohya"
    """kohya: ComfyUI, A1111, Forge and Kohya's scripts. diffusers: `load_lora_weights`."""
    out: Path = Path("mix.safetensors")
    """File to write."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Of the numbers in the file."""
    rank: int | None = None
    """Cut the LoRA to this rank, by the closest one; the error is told. None: all of it."""
    model: str | None = None
    """Base model. None: the one they were trained on."""
