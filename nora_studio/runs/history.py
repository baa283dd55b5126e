"""The runs in a folder: a summary of each, differences between two, and the trash."""

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
"""Folder, next to the runs, that deleted runs are moved to."""
DAMAGED = "damaged"
CURVES = ("loss", "fixed_loss", "held_out_loss")
"""Names of the losses in the log."""
Settings = dict[str, Any]
CurvePoints = list[tuple[int, float]]
"""(step, value), by step."""


@dataclass(frozen=True)
class RunSummary:
    """A summary of a run, from its files."""

    run: Run
    method: str
    state: str
    """running, finished, stopped or failed; interrupted: its process was killed; new: it has no
    status yet; damaged: its settings cannot be read."""
    step: int
    steps: int
    curves: dict[str, CurvePoints]
    time: float
    """Time of its last status, in seconds since 1970."""
    error: str | None = None
    damage: str | None = None
    """Which file is damaged and how, such as "status.json: it is empty"."""

    @property
    def last(self) -> dict[str, float]:
        """The last value of each curve."""
        return {name: points[-1][1] for name, points in self.curves.items() if points}


def find_runs(folder: Path) -> list[Run]:
    """Return the runs directly inside a folder, by name.

    Raises:
        StudioError: the folder does not exist or cannot be read.
    """
    if not folder.is_dir():
        raise StudioError(
            f"--output-dir: expected a folder of runs; {folder} is not a folder. Name the folder "
            "with --output-dir."
        )
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise StudioError(f"--output-dir: {folder} cannot be read: {error.strerror}.") from error
    return [Run(path) for path in found if Run(path).exists]


def find_run(name: str, folder: Path) -> Run:
    """Return a run by its path, or by its name inside a folder of runs.

    Raises:
        StudioError: there is no such run; the message lists the names of those that exist.
    """
    for path in (Path(name).expanduser(), folder / name):
        if Run(path).exists:
            return Run(path)
    names = ", ".join(run.folder.name for run in find_runs(folder)) if folder.is_dir() else ""
    raise StudioError(f"expected a run; got {name!r}. Runs in {folder}: {names or 'none'}.")


def summarize(run: Run) -> RunSummary:
    """Summarise a run from its files; one whose settings cannot be read is "damaged"."""
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
    """Return when a run's settings were written, in seconds since 1970; 0 if unknown."""
    try:
        return (run.folder / CONFIG).stat().st_mtime
    except OSError:
        return 0.0


def method_of(run: Run, settings: Settings) -> str:
    """Return which of the methods in a run's settings is its own; twins share their settings."""
    methods = [word.strip() for word in str(settings.get("method", "")).split(",")]
    return run.method_among(methods) or methods[0]


def trainer_of(run: Run) -> str:
    """Return the script that trains a run, as a name for `scripts.script_path`.

    Raises:
        StudioError: the run's settings belong to no trainer, or cannot be read.
    """
    settings = read_settings(run)
    for option, script in TRAINERS.items():
        if option in settings:
            return script
    raise StudioError(
        f"{run.folder / CONFIG}: expected one of the settings {', '.join(TRAINERS)}, which tell "
        "the trainers apart; it has none. Continue the run with the script that started it."
    )


def read_settings(run: Run) -> Settings:
    """Return a run's settings by name; those of parts have names with a dot.

    Raises:
        StudioError: the settings cannot be read.
    """
    return flat_settings(read_config(run.folder / CONFIG))


def read_curves(run: Run) -> dict[str, CurvePoints]:
    """Return a run's losses by name, without NaN, and without those it has not logged."""
    rows = run.read_log()
    curves = {
        name: [(row["step"], float(row[name])) for row in rows if is_finite(row.get(name))]
        for name in CURVES
    }
    return {name: points for name, points in curves.items() if points}


def differing_settings(first: Settings, second: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two runs, by name; None stands for the default."""
    names = sorted((first.keys() | second.keys()) - {"resume"})
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def common_steps(first: CurvePoints, second: CurvePoints) -> list[tuple[int, float, float]]:
    """Return (step, first value, second value) for each step at which both were measured."""
    other = dict(second)
    return [(step, value, other[step]) for step, value in first if step in other]


def move_to_trash(run: Run) -> Path:
    """Move a run to the trash in its folder of runs; `restore_from_trash` brings it back.

    Raises:
        StudioError: the run is training, or cannot be moved.
    """
    if run.is_alive():
        pid = run.read_status()["pid"]
        raise StudioError(
            f"{run.folder} is training (process {pid}). Stop it first: after `kill {pid}` it saves "
            "and ends."
        )
    folder = run.folder
    if folder.is_symlink() or folder.name in ("", ".."):
        folder = folder.resolve()  # A link's target; for ".", a path with a name.
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


def list_trash(folder: Path) -> list[Path]:
    """Return the contents of the trash of a folder of runs, latest first."""
    trash = folder / TRASH
    found = trash.iterdir() if trash.is_dir() else ()
    return sorted(found, key=lambda path: path.name.rpartition("~")[2], reverse=True)


def restore_from_trash(name: str, folder: Path) -> Run:
    """Bring the latest deleted run of a name back to its folder of runs.

    Raises:
        StudioError: the trash holds no run of that name, or a run of that name exists.
    """
    for path in list_trash(folder):
        if path.name.rpartition("~")[0] == name:
            place = folder / name
            if place.exists():
                raise StudioError(f"{place} exists already. Rename it, then restore again.")
            try:
                path.rename(place)
            except OSError as error:
                raise StudioError(
                    f"{path} cannot be moved to {place}: {error.strerror}."
                ) from error
            return Run(place)
    known = ", ".join(dict.fromkeys(path.name.rpartition("~")[0] for path in list_trash(folder)))
    raise StudioError(
        f"expected a deleted run; got {name!r}. Runs in {folder / TRASH}: {known or 'none'}."
    )


def empty_trash(folder: Path) -> Sequence[Path]:
    """Delete everything in the trash for good, and return the paths that were deleted.

    Raises:
        StudioError: a path cannot be deleted.
    """
    deleted = list_trash(folder)
    for path in deleted:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise StudioError(f"{path} cannot be deleted: {error.strerror}.") from error
    return deleted
