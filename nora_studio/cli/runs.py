"""`nora-studio runs`: list, show, compare, throw away and go on with runs."""

import datetime
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nora_studio.cli.run_curves import plot_curves, sparkline
from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.runs.history import (
    common_steps,
    differing_settings,
    empty_trash,
    find_run,
    find_runs,
    read_settings,
    standing,
    take_back,
    throw_away,
    trainer_of,
)
from nora_studio.runs.scripts import run_script


@dataclass(frozen=True)
class ListOptions:
    """Every run in a folder: how it stands, its losses, when it last told anything."""

    output_dir: Path = Path("runs")
    """Folder of runs."""


@dataclass(frozen=True)
class ShowOptions:
    """One run: how it stands, its settings, its curves, its checkpoints and pictures."""

    run: tyro.conf.Positional[str]
    """Name in the folder of runs, or a path."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


@dataclass(frozen=True)
class DiffOptions:
    """Two runs: which settings differ, and how far apart their curves are."""

    first: tyro.conf.Positional[str]
    """Name in the folder of runs, or a path."""
    second: tyro.conf.Positional[str]
    """The other one."""
    plot: Path | None = None
    """PNG file for both runs' curves in one chart. None: no chart."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


@dataclass(frozen=True)
class DeleteOptions:
    """Throw runs away: into .trash beside them, from where `restore` brings them back."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names in the folder of runs, or paths; a run in training is refused."""
    empty_trash: bool = False
    """Delete for good what was thrown away."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


@dataclass(frozen=True)
class RestoreOptions:
    """Bring a run back that was thrown away."""

    run: tyro.conf.Positional[str]
    """Its name."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


@dataclass(frozen=True)
class ContinueOptions:
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


def list_runs(options: ListOptions) -> int:
    """Print the table of runs."""
    table = _table()
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
            _number(last.get("loss")),
            _number(measured),
            _moment(now.time),
        )
    console = _console()
    if whole:
        console.print(table)
    for now in damaged:
        console.print(escape(f"{now.run.folder.name}  damaged: {now.damage}"), soft_wrap=True)
    if not every:
        console.print(f"No runs in {options.output_dir}. `nora-studio train --help` makes one.")
    return 0


def show(options: ShowOptions) -> int:
    """Print one run."""
    run = find_run(options.run, options.output_dir)
    settings = read_settings(run)
    now, console = standing(run), _console()
    facts = {
        "run": str(run.folder),
        **({} if now.damage is None else {"damaged": now.damage}),
        "method": now.method,
        "state": now.state + (f": {now.error}" if now.error else ""),
        "steps": f"{now.step} of {now.steps}",
        "last told": _moment(now.time),
        "checkpoints": ", ".join(str(step) for step in run.checkpoints()) or "none",
        "adapter": str(run.adapter) if run.adapter.is_dir() else "not yet",
        "samples": f"{len(list((run.folder / 'samples').glob('*.png')))} pictures",
    }
    _print_facts(console, facts)
    for name, points in now.curves.items():
        values = [value for _, value in points]
        line = sparkline(points)
        console.print(f"[dim]{name:<14}[/dim]{line}  {values[0]:.4f} to {values[-1]:.4f}")
    console.print()
    _print_facts(console, {name: str(value) for name, value in settings.items()})
    return 0


def diff(options: DiffOptions) -> int:
    """Print what two runs differ in."""
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise StudioError(f"--plot: expected a name that ends with .png; got {options.plot}.")
    runs = [find_run(name, options.output_dir) for name in (options.first, options.second)]
    differing = differing_settings(*(read_settings(run) for run in runs))
    both, console = [standing(run) for run in runs], _console()
    names = [escape(run.folder.name) for run in runs]
    settings = _table()
    for title in ("setting", *names):
        settings.add_column(title)
    if both[0].method != both[1].method:
        differing = {"method": (both[0].method, both[1].method), **differing}
    for name, values in differing.items():
        settings.add_row(name, *("default" if v is None else escape(str(v)) for v in values))
    console.print(settings if differing else "The same settings.")
    curves = _table()
    for title in ("curve", *names, "difference", "at step"):
        curves.add_column(title, justify="left" if title == "curve" else "right")
    for name in both[0].curves.keys() & both[1].curves.keys():
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


def delete(options: DeleteOptions) -> int:
    """Throw runs away."""
    if not options.runs and not options.empty_trash:
        raise StudioError("expected the runs to delete, or --empty-trash; got neither.")
    for run in [find_run(name, options.output_dir) for name in options.runs]:
        place = throw_away(run)
        undo = f"nora-studio runs restore {place.name.rpartition('~')[0]}"
        if place.parent.parent != ListOptions.output_dir:
            undo += f" --output-dir {place.parent.parent}"
        print(f"{run.folder} -> {place}; `{undo}` undoes it.")
    if options.empty_trash:
        for path in empty_trash(options.output_dir):
            print(f"deleted {path}")
    return 0


def restore(options: RestoreOptions) -> int:
    """Bring a run back."""
    print(take_back(options.run, options.output_dir).folder)
    return 0


def go_on(options: ContinueOptions) -> int:
    """Start the trainer again on a run."""
    run = find_run(options.run, options.output_dir)
    if run.is_alive():
        raise StudioError(f"{run.folder} is in training already. Wait for it, or stop it first.")
    words = ["--config", str(run.folder / "config.toml"), "--resume"]
    if options.steps is not None:
        words += ["--steps", str(options.steps)]
    return run_script(trainer_of(run), words)


ACTIONS: dict[str, tuple[type, Callable[..., int]]] = {
    "list": (ListOptions, list_runs),
    "show": (ShowOptions, show),
    "diff": (DiffOptions, diff),
    "delete": (DeleteOptions, delete),
    "restore": (RestoreOptions, restore),
    "continue": (ContinueOptions, go_on),
}


def run(arguments: Sequence[str]) -> int:
    """Parse one action's options and do it."""
    word, *rest = arguments or ["list"]
    if word in ("-h", "--help"):
        print("usage: nora-studio runs ACTION [options]\n")
        for name, (kind, _) in ACTIONS.items():
            print(f"  {name:<10}{(kind.__doc__ or '').splitlines()[0]}")
        return 0
    if word not in ACTIONS:
        close = difflib.get_close_matches(word, ACTIONS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise StudioError(f"runs: expected one of {', '.join(ACTIONS)}; got {word!r}.{hint}")
    kind, act = ACTIONS[word]
    return act(parse_command(kind, prog=f"nora-studio runs {word}", arguments=rest))


def _console() -> Console:
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def _table() -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False)


def _print_facts(console: Console, facts: dict[str, str]) -> None:
    width = max(map(len, facts), default=0) + 2
    for name, value in facts.items():
        console.print(f"[dim]{name:<{width}}[/dim]{escape(value)}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
