"""`nora-studio push`: an adapter, its page and its pictures to the Hugging Face Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Publish an adapter on the Hugging Face Hub: LoRA files, a page, and the run's pictures.

    The token is read from the environment (HF_TOKEN) and from nowhere else.
    """

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or adapter file."""
    repository: tyro.conf.Positional[str]
    """owner/name; made if it does not exist."""
    formats: tuple[Literal["diffusers", "kohya"], ...] = ("diffusers", "kohya")
    """Which LoRA files to publish."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Of the numbers in the files."""
    rank: int | None = None
    """Cut the LoRA to this rank, by the closest one; the error is told. None: all of it."""
    model: str | None = None
    """Base model. None: the one it was trained on."""
    title: str | None = None
    """Name of the adapter. None: its run's."""
    licence: str | None = None
    """Its licence, as the Hub abbreviates it ("openrail++"). None: as its card says."""
    private: bool = False
    """Make a new repository private."""
    dry_run: bool = False
    """Show everything that would be sent, and send nothing."""
