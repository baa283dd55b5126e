"""Write beside, then replace: nothing is ever half written, and nothing good is lost.

What is under way has a name of its own (`.NAME.PID-CALL@HOST.new`), so that two threads never share
one, and the next process can finish a swap that a killed one began, and clear away the rest.
Folders are on the disk, and not only in the system's memory, before they take their place: a power
cut leaves the old one or the new one.
"""

import contextlib
import errno
import itertools
import os
import re
import shutil
import time
from pathlib import Path

from nora_studio.runs.liveness import CLOCK_TOLERANCE, born_at, host_name

STALE_SECONDS = 24 * 3600
"""After so long, what another machine has under way belongs to a process that was killed."""

_UNDER_WAY = re.compile(
    r"\.(?P<name>.+?)\.(?P<pid>\d+)(?:-\d+)?(?:@(?P<host>[\w-]*))?\.(?:new|old|gone)"
)
_CALLS = itertools.count()
"""Numbers the names of this process; `next` of it is one step for the interpreter, so threads may
share it."""


def beside(path: Path, kind: str = "new") -> Path:
    """Name what will take a path's place ("new"), or left it ("old", "gone"): each call anew."""
    mark = f"{os.getpid()}-{next(_CALLS)}@{host_name()}"
    return path.with_name(f".{path.name}.{mark}.{kind}")


class replacing:
    """Build a folder beside its destination and swap it in when the block ends well.

    What a killed process left under way there is cleared away first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fresh = beside(folder)

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
        except OSError:  # Some file systems tell only here that the disk is full.
            shutil.rmtree(self.fresh, ignore_errors=True)
            raise
        old = self.fresh.with_suffix(".old")
        if self.folder.exists():
            # `tidy` finishes what ends between these two lines.
            self.folder.rename(old)
        self.fresh.rename(self.folder)
        _flush_folder(self.folder.parent)
        shutil.rmtree(old, ignore_errors=True)


def write_text(file: Path, text: str, durable: bool = False) -> None:
    """Replace a text file whole: a reader sees the old or the new, never half of one.

    Args:
        durable: Return only when it would outlast a power cut.
    """
    write_bytes(file, text.encode(), durable)


def write_bytes(file: Path, content: bytes, durable: bool = False) -> None:
    """Replace a file whole, as `write_text` does."""
    fresh = beside(file)
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
    """Remove a folder at once by name, then its contents: none is ever half there."""
    going = beside(folder, "gone")
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def tidy(folder: Path, alone: bool = False, signed: bool = False) -> None:
    """Finish swaps that killed processes began among a folder's entries; clear away the rest.

    Args:
        alone: Nobody else writes there now, so that all which is under way was left behind.
        signed: Leave alone what names no machine, as earlier versions left it and others may: for
            a folder that is not ours.
    """
    found = {file: _UNDER_WAY.fullmatch(file.name) for file in _entries(folder)}
    if signed:
        found = {file: match for file, match in found.items() if match and match["host"]}
    left = {file: match for file, match in found.items() if match and (alone or _is_left(file))}
    for file, match in left.items():
        place = folder / match["name"]
        if file.suffix == ".old" and not place.exists():
            # It went only when its successor was whole.
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
    except OSError:  # There is none, or it may not be looked into.
        return []


def _is_left(file: Path) -> bool:
    """Whether the process that had something under way is no more."""
    match = _UNDER_WAY.fullmatch(file.name)
    assert match
    try:
        changed = file.lstat().st_mtime
    except FileNotFoundError:
        return False
    if match["host"] not in (None, host_name()):
        return time.time() - changed > STALE_SECONDS
    born = born_at(int(match["pid"]))
    # Born after its last change: the number is another process's by now.
    return born is None or born > changed + CLOCK_TOLERANCE


def _flush_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open("rb+") as stream:
                os.fsync(stream.fileno())
        _flush_folder(Path(parent))


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # It has no such thing; its renames are in the journal.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # Some network file systems cannot.
            raise
    finally:
        os.close(handle)
