"""`nora-studio merge`: write a pipeline with adapters merged into its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Write the base with adapters merged into its weights, as a diffusers directory.

    Adapters of any method can be merged. The result can be used without this project.
    """

    adapters: tuple[Path, ...]
    """Run folders, adapter folders, checkpoints or adapter files, all of one base."""
    out: Path = Path("merged")
    """Folder to write; it must be new or empty."""
    weights: tuple[float, ...] = ()
    """Factor on each adapter's change, in the same order. None given: 1 for each."""
    model: str | None = None
    """Base model. None: the one they were trained on."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp16"
    """Number format of the written weights; sums are computed in fp32 and rounded once."""
