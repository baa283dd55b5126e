"""`nora-studio runs delete`: runs into the trash, from where they can be restored."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.cli.commands.runs import list as listing
from nora_studio.errors import StudioError
from nora_studio.runs.history import empty_trash, find_run, throw_away


@dataclass(frozen=True)
class Options:
    """Throw runs away: into .trash beside them, from where `restore` brings them back."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names in the folder of runs, or paths; a run in training is refused."""
    empty_trash: bool = False
    """Delete for good what was thrown away."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Throw runs away."""
    if not options.runs and not options.empty_trash:
        raise StudioError("expected the runs to delete, or --empty-trash; got neither.")
    for run in [find_run(name, options.output_dir) for name in options.runs]:
        place = throw_away(run)
        undo = f"nora-studio runs restore {place.name.rpartition('~')[0]}"
        if place.parent.parent != listing.Options.output_dir:
            undo += f" --output-dir {place.parent.parent}"
        print(f"{run.folder} -> {place}; `{undo}` undoes it.")
    if options.empty_trash:
        for path in empty_trash(options.output_dir):
            print(f"deleted {path}")
    return 0
