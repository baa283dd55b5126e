"""`nora-studio runs diff`: the differences between two runs."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.markup import escape

from nora_studio.cli.commands.runs.curves import plot_curves
from nora_studio.cli.commands.runs.printing import new_console, new_table
from nora_studio.cli.plot_file import check_plot_file
from nora_studio.runs.history import (
    common_steps,
    differing_settings,
    find_run,
    read_settings,
    summarize,
)


@dataclass(frozen=True)
class Options:
    """Compare two runs: settings that differ, and the difference between their curves."""

    first: tyro.conf.Positional[str]
    """Name of a run in the folder of runs, or a path."""
    second: tyro.conf.Positional[str]
    """The run to compare it with."""
    plot: Path | None = None
    """PNG file for a chart of both runs' curves. None: no chart."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Print the differences between the two runs."""
    check_plot_file(options.plot)
    runs = [find_run(name, options.output_dir) for name in (options.first, options.second)]
    differing = differing_settings(*(read_settings(run) for run in runs))
    summaries, console = [summarize(run) for run in runs], new_console()
    names = [escape(run.folder.name) for run in runs]
    settings = new_table()
    for title in ("setting", *names):
        settings.add_column(title)
    first, second = summaries
    if first.method != second.method:
        differing = {"method": (first.method, second.method), **differing}
    for name, values in differing.items():
        settings.add_row(name, *("default" if v is None else escape(str(v)) for v in values))
    console.print(settings if differing else "The settings are the same.")
    curves = new_table()
    for title in ("curve", *names, "difference", "at step"):
        curves.add_column(title, justify="left" if title == "curve" else "right")
    for name in (name for name in first.curves if name in second.curves):
        points = common_steps(first.curves[name], second.curves[name])
        if points:
            step, one, other = points[-1]
            curves.add_row(name, f"{one:.4f}", f"{other:.4f}", f"{other - one:+.4f}", str(step))
    console.print(curves if curves.rows else "The runs were not measured at any common step.")
    if options.plot is not None:
        plot_curves(summaries, options.plot)
        print(options.plot)
    return 0
