"""`nora-studio inspect`: what an adapter is, and where in the model it changes most."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    """Tell what an adapter is: ours or another tool's, a folder or a file."""

    adapter: tyro.conf.Positional[Path]
    """Run folder, adapter folder, checkpoint, or any .safetensors file."""
    plot: Path | None = None
    """PNG file for a chart of the energy per block. None: no chart."""
    metadata: bool = False
    """Show the file's readable metadata too."""
