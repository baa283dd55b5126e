"""`nora-studio merge`: a whole pipeline with adapters in its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Write the base with adapters merged into its weights, as a diffusers directory.

    Any method can be merged; the result needs nothing of this project to be used.
    """

    adapters: tuple[Path, ...]
    """Run folders, adapter folders, checkpoints or adapter files, all for one base."""
    out: Path = Path("merged")
    """Folder to write; it must not exist yet."""
    weights: tuple[float, ...] = ()
    """Factor on each adapter's change, in the same order. None given: 1 for each."""
    model: str | None = None
    """Base model. None: the one they were trained on."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp16"
    """Of the written weights; the sum is made in fp32 and rounded once."""
