"""`nora-studio runs restore`: a run out of the trash."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.runs.history import take_back


@dataclass(frozen=True)
class Options:
    """Bring a run back that was thrown away."""

    run: tyro.conf.Positional[str]
    """Its name."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Bring a run back."""
    print(take_back(options.run, options.output_dir).folder)
    return 0
