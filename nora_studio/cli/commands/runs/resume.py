"""`nora-studio runs continue`: continue a run."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.errors import StudioError
from nora_studio.runs.history import find_run, trainer_of
from nora_studio.runs.scripts import run_script


@dataclass(frozen=True)
class Options:
    """Continue a run and its twins: from where they stopped, or for more steps.

    With more steps, the learning-rate schedule is stretched over all of them, so that a rate that
    had decayed rises again.
    """

    run: tyro.conf.Positional[str]
    """Name of the run in the folder of runs, or a path."""
    steps: int | None = None
    """Total steps, including those done. None: as planned."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Start the trainer on the run and return its exit status."""
    run = find_run(options.run, options.output_dir)
    if run.is_alive():
        raise StudioError(
            f"{run.folder} is training already. Wait until it ends, or stop it first."
        )
    words = ["--config", str(run.folder / "config.toml"), "--resume"]
    if options.steps is not None:
        words += ["--steps", str(options.steps)]
    return run_script(trainer_of(run), words)
