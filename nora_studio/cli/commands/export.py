"""`nora-studio export`: write one adapter as a single file, for other tools or this project."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Write an adapter as one .safetensors file.

    kohya and diffusers are LoRA files for other tools. They are exact for a NoRA, which equals a
    LoRA of twice its inner rank. A seed file is the smallest form of a NoRA; only this project
    reads it, and it needs the same base.
    """

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or adapter file."""
    to: Literal["kohya", "diffusers", "seed"] = "kohya"
    """Format. kohya: for ComfyUI, A1111, Forge and Kohya's scripts; diffusers: for
    `load_lora_weights`; seed: NoRA's own."""
    out: Path | None = None
    """File to write. None: a name made of the adapter and the format, in the current folder."""
    precision: Literal["fp32", "fp16", "bf16"] | None = None
    """Number format of the weights. None: fp16 for a LoRA, fp32 for a seed file."""
    rank: int | None = None
    """Reduce the LoRA to this rank and print the error. None: its full rank."""
    model: str | None = None
    """Base model. None: the one it was trained on."""
    title: str | None = None
    """Name that other tools show. None: the adapter's own."""
    licence: str | None = None
    """The adapter's licence, as the Hub abbreviates it ("openrail++"). None: as its card says."""
