"""`nora-studio runs continue`: the trainer again, on a run."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.errors import StudioError
from nora_studio.runs.history import find_run, trainer_of
from nora_studio.runs.scripts import run_script


@dataclass(frozen=True)
class Options:
    """Go on with a run (and its twins): from where it stopped, or longer than was planned.

    A longer run's learning-rate schedule is stretched over all of its steps, so a rate that had
    come to rest rises again.
    """

    run: tyro.conf.Positional[str]
    """Name in the folder of runs, or a path."""
    steps: int | None = None
    """Steps in all, those done included. None: as planned."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Start the trainer again on a run."""
    run = find_run(options.run, options.output_dir)
    if run.is_alive():
        raise StudioError(f"{run.folder} is in training already. Wait for it, or stop it first.")
    words = ["--config", str(run.folder / "config.toml"), "--resume"]
    if options.steps is not None:
        words += ["--steps", str(options.steps)]
    return run_script(trainer_of(run), words)
