"""`nora-studio push`: publish an adapter, its page and its samples on the Hugging Face Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Publish an adapter on the Hugging Face Hub: LoRA files, a page, and the run's samples.

    The access token is read from the environment variable HF_TOKEN only.
    """

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or adapter file."""
    repository: tyro.conf.Positional[str]
    """Repository, as owner/name; created if it does not exist."""
    formats: tuple[Literal["diffusers", "kohya"], ...] = ("diffusers", "kohya")
    """Formats of the LoRA files to publish."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """Number format of the weights."""
    rank: int | None = None
    """Reduce the LoRA to this rank and print the error. None: its full rank."""
    model: str | None = None
    """Base model. None: the one it was trained on."""
    title: str | None = None
    """Name of the adapter. None: the name of its run."""
    licence: str | None = None
    """The adapter's licence, as the Hub abbreviates it ("openrail++"). None: as its card says."""
    private: bool = False
    """Create the repository as a private one."""
    dry_run: bool = False
    """Show everything that would be sent, without sending it."""
