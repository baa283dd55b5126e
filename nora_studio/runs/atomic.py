"""Atomic writes: write a temporary file or folder, then rename it over the old one.

Temporary names are unique (`.NAME.PID-CALL@HOST.new`), so that two threads never share one, and so
that the next process can finish a swap that a killed process began and remove its other temporary
files. Folders are flushed to the disk before they are renamed: a power cut leaves the old one or
the new one.
"""

import contextlib
import errno
import itertools
import os
import re
import shutil
import time
from pathlib import Path

from nora_studio.runs.process_id import CLOCK_TOLERANCE, host_name, process_start_time

STALE_SECONDS = 24 * 3600
"""Age at which another machine's temporary file counts as left by a killed process."""

_TEMPORARY = re.compile(
    r"\.(?P<name>.+?)\.(?P<pid>\d+)(?:-\d+)?(?:@(?P<host>[\w-]*))?\.(?:new|old|gone)"
)
_CALLS = itertools.count()
"""Numbers the temporary names of this process; `next` is atomic, so threads may share it."""


def temporary_path(path: Path, kind: str = "new") -> Path:
    """Return a unique temporary path next to a path, to replace it or to move it to.

    Args:
        kind: "new" for its replacement, "old" for the one replaced, "gone" for one to delete.
    """
    mark = f"{os.getpid()}-{next(_CALLS)}@{host_name()}"
    return path.with_name(f".{path.name}.{mark}.{kind}")


class replacing:
    """Build a folder under a temporary name, and swap it in if the block ends without an error.

    Temporary files of killed processes are removed first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fresh = temporary_path(folder)

    def __enter__(self) -> Path:
        tidy(self.folder.parent, signed=True)
        shutil.rmtree(self.fresh, ignore_errors=True)
        self.fresh.mkdir(parents=True)
        return self.fresh

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        if kind is not None:
            shutil.rmtree(self.fresh, ignore_errors=True)
            return
        try:
            _flush_tree(self.fresh)
        except OSError:  # Some file systems report a full disk only here.
            shutil.rmtree(self.fresh, ignore_errors=True)
            raise
        old = self.fresh.with_suffix(".old")
        if self.folder.exists():
            # `tidy` finishes a swap that was interrupted between the two renames.
            self.folder.rename(old)
        self.fresh.rename(self.folder)
        _flush_folder(self.folder.parent)
        shutil.rmtree(old, ignore_errors=True)


def write_text(file: Path, text: str, durable: bool = False) -> None:
    """Replace a text file atomically: a reader sees the old or the new text, never a part.

    Args:
        durable: Flush to the disk before returning, so that the file survives a power cut.
    """
    write_bytes(file, text.encode(), durable)


def write_bytes(file: Path, content: bytes, durable: bool = False) -> None:
    """Replace a file atomically, as `write_text` does."""
    fresh = temporary_path(file)
    try:
        with fresh.open("wb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        fresh.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    if durable:
        _flush_folder(file.parent)


def discard(folder: Path) -> None:
    """Remove a folder: first rename it away, then delete it, so that no part of it stays behind."""
    going = temporary_path(folder, "gone")
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def tidy(folder: Path, alone: bool = False, signed: bool = False) -> None:
    """Finish swaps that killed processes began in a folder, and remove their temporary files.

    Args:
        alone: No other process writes to the folder now, so that every temporary file in it was
            left behind.
        signed: Skip names without a machine, which earlier versions wrote and other programs may
            write too; for a folder that is not only ours.
    """
    found = {file: _TEMPORARY.fullmatch(file.name) for file in _entries(folder)}
    if signed:
        found = {file: match for file, match in found.items() if match and match["host"]}
    left = {file: match for file, match in found.items() if match and (alone or _is_left(file))}
    for file, match in left.items():
        place = folder / match["name"]
        if file.suffix == ".old" and not place.exists():
            # The old folder is moved only after the new one is complete.
            fresh = file.with_suffix(".new")
            with contextlib.suppress(OSError):
                (fresh if fresh.exists() else file).rename(place)
    for file in left:
        if file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # The folder does not exist, or may not be read.
        return []


def _is_left(file: Path) -> bool:
    """Return whether the process that made a temporary file has ended."""
    match = _TEMPORARY.fullmatch(file.name)
    assert match
    try:
        changed = file.lstat().st_mtime
    except FileNotFoundError:
        return False
    if match["host"] not in (None, host_name()):
        return time.time() - changed > STALE_SECONDS
    started = process_start_time(int(match["pid"]))
    # A process that started after the file's last change has only the same number.
    return started is None or started > changed + CLOCK_TOLERANCE


def _flush_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb+") as stream:
                os.fsync(stream.fileno())
        _flush_folder(Path(parent))


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot flush folders; renames are in its journal.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some network file systems cannot flush folders.
            raise
    finally:
        os.close(handle)
