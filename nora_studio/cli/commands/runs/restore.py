"""`nora-studio runs restore`: restore a run from the trash."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.runs.history import restore_from_trash


@dataclass(frozen=True)
class Options:
    """Restore a deleted run from .trash."""

    run: tyro.conf.Positional[str]
    """Name of the run."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Restore the run and print its folder."""
    print(restore_from_trash(options.run, options.output_dir).folder)
    return 0
