"""`nora-studio runs delete`: move runs to the trash, from which they can be restored."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.cli.commands.runs import list as listing
from nora_studio.errors import StudioError
from nora_studio.runs.history import empty_trash, find_run, move_to_trash


@dataclass(frozen=True)
class Options:
    """Move runs to .trash in their folder, from which `restore` restores them."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names of runs in the folder of runs, or paths. A run that is training is refused."""
    empty_trash: bool = False
    """Delete everything in the trash for good."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Move the runs to the trash, or empty it."""
    if not options.runs and not options.empty_trash:
        raise StudioError("expected the names of runs to delete, or --empty-trash; got neither.")
    for run in [find_run(name, options.output_dir) for name in options.runs]:
        trashed = move_to_trash(run)
        undo = f"nora-studio runs restore {trashed.name.rpartition('~')[0]}"
        if trashed.parent.parent != listing.Options.output_dir:
            undo += f" --output-dir {trashed.parent.parent}"
        print(f"Moved {run.folder} to {trashed}. To undo: {undo}")
    if options.empty_trash:
        for path in empty_trash(options.output_dir):
            print(f"Deleted {path}")
    return 0
