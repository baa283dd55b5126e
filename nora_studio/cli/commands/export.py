"""`nora-studio export`: one adapter as a single file, for this project or for other tools."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Write an adapter as one .safetensors file.

    kohya and diffusers are LoRA files for other tools: exact for a NoRA, which is a LoRA of twice
    its inner rank. A seed file is NoRA's smallest form; it is read by this project, on the same
    base.
    """

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or adapter file."""
    to: Literal["kohya", "diffusers", "seed"] = "kohya"
    """kohya: ComfyUI, A1111, Forge and Kohya's scripts. diffusers: `load_lora_weights`."""
    out: Path | None = None
    """File to write. None: named after the adapter and the format, in the current folder."""
    precision: Literal["fp32", "fp16", "bf16"] | None = None
    """Of the numbers in the file. None: fp16 for a LoRA, fp32 for a seed file."""
    rank: int | None = None
    """Cut the LoRA to this rank, by the closest one; the error is told. None: all of it."""
    model: str | None = None
    """Base model. None: the one it was trained on."""
    title: str | None = None
    """Name that tools show. None: the adapter's own."""
    licence: str | None = None
    """The adapter's licence, as the Hub abbreviates it. None: as its card says."""
