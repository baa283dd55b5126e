"""`nora-studio runs list`: a table of the runs in a folder."""

from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from nora_studio.cli.commands.runs.printing import format_loss, format_time, new_console, new_table
from nora_studio.runs.history import find_runs, summarize


@dataclass(frozen=True)
class Options:
    """List the runs in a folder: state, steps, losses, and time of the last report."""

    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Print the table of runs."""
    table = new_table()
    for title in ("run", "method", "state", "steps", "loss", "measured", "last report"):
        table.add_column(title, justify="right" if title in ("loss", "measured") else "left")
    summaries = [summarize(run) for run in find_runs(options.output_dir)]
    damaged = [summary for summary in summaries if summary.damage is not None]
    readable = [summary for summary in summaries if summary.damage is None]
    for summary in readable:
        last = summary.last
        measured = last.get("held_out_loss", last.get("fixed_loss"))
        table.add_row(
            escape(summary.run.folder.name),
            escape(summary.method),
            summary.state,
            f"{summary.step} of {summary.steps}",
            format_loss(last.get("loss")),
            format_loss(measured),
            format_time(summary.time),
        )
    console = new_console()
    if readable:
        console.print(table)
    for summary in damaged:
        line = f"{summary.run.folder.name}  damaged: {summary.damage}"
        console.print(escape(line), soft_wrap=True)
    if not summaries:
        console.print(f"No runs in {options.output_dir}. Start one with `nora-studio train`.")
    return 0
