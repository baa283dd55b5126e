"""`nora-studio inspect`: show what an adapter is, and where it changes the model most."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    """Show what an adapter is, and where it changes the model most.

    Takes this project's adapters and other tools', folders and files.
    """

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or any .safetensors file."""
    plot: Path | None = None
    """PNG file for a chart of the energy per block. None: no chart."""
    metadata: bool = False
    """Also show the file's metadata."""
