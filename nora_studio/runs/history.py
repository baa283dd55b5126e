"""What a folder of runs holds: how each stands, what two differ in, and what is thrown away."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.runs.run_files import CONFIG, damage, flat_settings, is_finite, read_config
from nora_studio.runs.runs import Run
from nora_studio.runs.scripts import TRAINERS

TRASH = ".trash"
"""Beside the runs: deleted runs wait there until they are emptied out."""
DAMAGED = "damaged"
CURVES = ("loss", "fixed_loss", "held_out_loss")
"""Numbers of the log that two runs are compared by."""
Settings = dict[str, Any]
Curve = list[tuple[int, float]]
"""(step, value), by step."""


@dataclass(frozen=True)
class RunSummary:
    """A run at a glance."""

    run: Run
    method: str
    state: str
    """running, finished, stopped, failed; interrupted: its process ended without a word; new: none
    has written a status yet; damaged: its settings cannot be read."""
    step: int
    steps: int
    curves: dict[str, Curve]
    time: float
    """When it last told anything, in seconds since 1970."""
    error: str | None = None
    damage: str | None = None
    """What is not as a trainer writes it, such as "status.json: it is empty"."""

    @property
    def last(self) -> dict[str, float]:
        """The last value of each curve."""
        return {name: points[-1][1] for name, points in self.curves.items() if points}


def find_runs(folder: Path) -> list[Run]:
    """Every run right inside a folder, by name.

    Raises:
        StudioError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise StudioError(
            f"expected a folder of runs; {folder} is none. Name it with --output-dir."
        )
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise StudioError(f"--output-dir: {folder} cannot be read: {error.strerror}.") from error
    return [Run(path) for path in found if Run(path).exists]


def find_run(name: str, folder: Path) -> Run:
    """A run by its path, or by its name inside a folder of runs.

    Raises:
        StudioError: there is none; the names that there are are told.
    """
    for path in (Path(name).expanduser(), folder / name):
        if Run(path).exists:
            return Run(path)
    names = ", ".join(run.folder.name for run in find_runs(folder)) if folder.is_dir() else ""
    raise StudioError(f"expected a run; got {name!r}. In {folder} there are: {names or 'none'}.")


def standing(run: Run) -> RunSummary:
    """How a run stands, from its files alone; one whose settings cannot be read is "damaged"."""
    status, state = run.read_status(), run.state
    try:
        settings = read_settings(run)
        method = method_of(run, settings)
    except StudioError:
        settings, state = {}, DAMAGED
        method = status.get("method") or run.folder.name.rpartition("-")[2]
    return RunSummary(
        run=run,
        method=method,
        state=state,
        step=status.get("step", 0),
        steps=status.get("steps", settings.get("steps", 0)),
        curves=read_curves(run),
        time=status.get("time", changed_at(run)),
        error=status.get("error"),
        damage=damage(run.folder),
    )


def changed_at(run: Run) -> float:
    """When a run's settings were written, in seconds since 1970; 0 where that cannot be told."""
    try:
        return (run.folder / CONFIG).stat().st_mtime
    except OSError:
        return 0.0


def method_of(run: Run, settings: Settings) -> str:
    """Which of the methods in a run's settings is this run's: twins share their settings."""
    methods = [word.strip() for word in str(settings.get("method", "")).split(",")]
    return run.method_among(methods) or methods[0]


def trainer_of(run: Run) -> str:
    """The script that trains a run, as `scripts.script_path` knows it.

    Raises:
        StudioError: its settings are no trainer's, or cannot be read.
    """
    settings = read_settings(run)
    for option, script in TRAINERS.items():
        if option in settings:
            return script
    raise StudioError(
        f"{run.folder / CONFIG} has none of {', '.join(TRAINERS)}: no trainer here began this run. "
        "Go on with it by the script that did."
    )


def read_settings(run: Run) -> Settings:
    """A run's settings, those of parts by names with a dot.

    Raises:
        StudioError: they cannot be read.
    """
    return flat_settings(read_config(run.folder / CONFIG))


def read_curves(run: Run) -> dict[str, Curve]:
    """A run's losses by name, without those that it has not; a loss of NaN is no point."""
    rows = run.read_log()
    curves = {
        name: [(row["step"], float(row[name])) for row in rows if is_finite(row.get(name))]
        for name in CURVES
    }
    return {name: points for name, points in curves.items() if points}


def differing_settings(first: Settings, second: Settings) -> dict[str, tuple[Any, Any]]:
    """Settings that two runs do not share, by name; None where one has the default."""
    names = sorted((first.keys() | second.keys()) - {"resume"})
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def common_steps(first: Curve, second: Curve) -> list[tuple[int, float, float]]:
    """(step, first's value, second's) wherever both have been measured."""
    other = dict(second)
    return [(step, value, other[step]) for step, value in first if step in other]


def throw_away(run: Run) -> Path:
    """Move a run into the trash beside it, from where `take_back` brings it.

    Raises:
        StudioError: it is in training, or cannot be moved.
    """
    if run.is_alive():
        pid = run.read_status()["pid"]
        raise StudioError(
            f"{run.folder} is in training (process {pid}). Stop it first: `kill {pid}` lets it "
            "save and end."
        )
    folder = run.folder
    if folder.is_symlink() or folder.name in ("", ".."):
        folder = folder.resolve()  # Of a link, what it leads to; of ".", with a name.
    trash = folder.parent / TRASH
    place = trash / f"{folder.name}~{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while place.exists():
        number += 1
        place = place.with_name(f"{place.name.split('.')[0]}.{number}")
    try:
        trash.mkdir(exist_ok=True)
        folder.rename(place)
    except OSError as error:
        raise StudioError(f"{folder} cannot be moved to {trash}: {error.strerror}.") from error
    return place


def trashed(folder: Path) -> list[Path]:
    """What lies in the trash of a folder of runs, latest first."""
    trash = folder / TRASH
    found = trash.iterdir() if trash.is_dir() else ()
    return sorted(found, key=lambda path: path.name.rpartition("~")[2], reverse=True)


def take_back(name: str, folder: Path) -> Run:
    """Bring the run of that name that was thrown away last back to where it was.

    Raises:
        StudioError: there is none in the trash, or its place is taken.
    """
    for path in trashed(folder):
        if path.name.rpartition("~")[0] == name:
            place = folder / name
            if place.exists():
                raise StudioError(f"{place} is there already. Rename it, then restore again.")
            try:
                path.rename(place)
            except OSError as error:
                raise StudioError(
                    f"{path} cannot be moved to {place}: {error.strerror}."
                ) from error
            return Run(place)
    known = ", ".join(dict.fromkeys(path.name.rpartition("~")[0] for path in trashed(folder)))
    raise StudioError(f"no run {name!r} in {folder / TRASH}; there are: {known or 'none'}.")


def empty_trash(folder: Path) -> Sequence[Path]:
    """Delete for good what lies in the trash; give back what it was.

    Raises:
        StudioError: something cannot be deleted.
    """
    gone = trashed(folder)
    for path in gone:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise StudioError(f"{path} cannot be deleted: {error.strerror}.") from error
    return gone
