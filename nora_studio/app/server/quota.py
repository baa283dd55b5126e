"""Visitors' disk quotas, and the limits of a single upload."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

_SHOWN_LENGTH = 100
_LOCKS: dict[Path, threading.RLock] = {}
_LOCKS_LOCK = threading.Lock()


def used_bytes(workspace: Workspace) -> int:
    """Return the size of a workspace in bytes; links are not followed."""
    return folder_bytes(workspace.folder)


def folder_bytes(folder: Path) -> int:
    """Return the size of a folder in bytes, 0 if it does not exist; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).lstat().st_size
    return total


def check_room(
    workspace: Workspace, needed: int, quota: int | None = None, promised: int = 0
) -> None:
    """Refuse to write more than a visitor's quota allows.

    Args:
        needed: Bytes that are to be written.
        quota: Bytes that the workspace may hold. None: its own quota.
        promised: Bytes that the visitor's unfinished jobs will still write.

    Raises:
        StudioError: there is no room.
    """
    quota = workspace.quota if quota is None else quota
    used = used_bytes(workspace)
    if used + promised + needed > quota:
        promise = f", and your jobs will add {_size_text(promised)}" if promised else ""
        raise StudioError(
            f"there is no room for {_size_text(needed)} more: your folder holds "
            f"{_size_text(used)} of {_size_text(quota)}{promise}. Delete runs or images "
            "that you no longer need."
        )


def remaining_bytes(workspace: Workspace, writes: int, runs: Sequence[str]) -> int:
    """Return how many of the bytes of a job's runs are still to be written."""
    return max(0, writes - sum(folder_bytes(workspace.runs / run) for run in runs))


@contextlib.contextmanager
def reserve_room(workspace: Workspace, size: int, quota: int | None = None) -> Iterator[None]:
    """Check that there is room for a file, and reserve it while the file is written.

    Writes to one workspace take turns: of two uploads that fit alone but not together, the second
    is refused. Only one server uses a data folder, so a lock within this process is enough.

    Raises:
        StudioError: there is no room.
    """
    with _lock_of(workspace):
        check_room(workspace, size, quota)
        yield


def _lock_of(workspace: Workspace) -> threading.RLock:
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(workspace.folder.absolute(), threading.RLock())


def _size_text(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def check_size(shown: str, size: int, most: int) -> None:
    """Refuse a file that is empty or too large.

    Args:
        shown: The file's name for the message.
        size: Size in bytes.
        most: Limit in bytes.

    Raises:
        StudioError: the file is empty or exceeds the limit.
    """
    if size == 0:
        raise StudioError(f"{shown} is empty. Choose the file again.")
    if size > most:
        raise StudioError(
            f"{shown} is {_size_text(size)}; the limit is {_size_text(most)}. Make it smaller, "
            "then add it again."
        )


def shown_name(name: str, fallback: str) -> str:
    """Return a file's name from the visitor as text to show, never as part of a path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(letter for letter in last if letter.isprintable()).strip()
    return plain[:_SHOWN_LENGTH] or fallback
