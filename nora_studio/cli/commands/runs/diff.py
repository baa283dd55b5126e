"""`nora-studio runs diff`: what two runs differ in."""

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
    standing,
)


@dataclass(frozen=True)
class Options:
    """Two runs: which settings differ, and how far apart their curves are."""

    first: tyro.conf.Positional[str]
    """Name in the folder of runs, or a path."""
    second: tyro.conf.Positional[str]
    """The other one."""
    plot: Path | None = None
    """PNG file for both runs' curves in one chart. None: no chart."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Print what two runs differ in."""
    check_plot_file(options.plot)
    runs = [find_run(name, options.output_dir) for name in (options.first, options.second)]
    differing = differing_settings(*(read_settings(run) for run in runs))
    both, console = [standing(run) for run in runs], new_console()
    names = [escape(run.folder.name) for run in runs]
    settings = new_table()
    for title in ("setting", *names):
        settings.add_column(title)
    if both[0].method != both[1].method:
        differing = {"method": (both[0].method, both[1].method), **differing}
    for name, values in differing.items():
        settings.add_row(name, *("default" if v is None else escape(str(v)) for v in values))
    console.print(settings if differing else "The same settings.")
    curves = new_table()
    for title in ("curve", *names, "difference", "at step"):
        curves.add_column(title, justify="left" if title == "curve" else "right")
    for name in (name for name in both[0].curves if name in both[1].curves):
        points = common_steps(both[0].curves[name], both[1].curves[name])
        if points:
            step, first, second = points[-1]
            row = f"{first:.4f}", f"{second:.4f}", f"{second - first:+.4f}", str(step)
            curves.add_row(name, *row)
    console.print(curves if curves.rows else "No step at which both have been measured.")
    if options.plot is not None:
        plot_curves(both, options.plot)
        print(options.plot)
    return 0
