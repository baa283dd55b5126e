"""`nora-studio runs list`: the table of the runs in a folder."""

from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from nora_studio.cli.commands.runs.printing import format_loss, format_time, new_console, new_table
from nora_studio.runs.history import find_runs, standing


@dataclass(frozen=True)
class Options:
    """Every run in a folder: how it stands, its losses, when it last told anything."""

    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Print the table of runs."""
    table = new_table()
    for title in ("run", "method", "state", "steps", "loss", "measured", "last told"):
        table.add_column(title, justify="right" if title in ("loss", "measured") else "left")
    every = [standing(run) for run in find_runs(options.output_dir)]
    damaged = [now for now in every if now.damage is not None]
    whole = [now for now in every if now.damage is None]
    for now in whole:
        last = now.last
        measured = last.get("held_out_loss", last.get("fixed_loss"))
        table.add_row(
            escape(now.run.folder.name),
            escape(now.method),
            now.state,
            f"{now.step} of {now.steps}",
            format_loss(last.get("loss")),
            format_loss(measured),
            format_time(now.time),
        )
    console = new_console()
    if whole:
        console.print(table)
    for now in damaged:
        console.print(escape(f"{now.run.folder.name}  damaged: {now.damage}"), soft_wrap=True)
    if not every:
        console.print(f"No runs in {options.output_dir}. `nora-studio train --help` makes one.")
    return 0
