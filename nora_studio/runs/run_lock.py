"""A lock for a run's folder, so that one process writes to it at a time.

The system releases the lock of a killed process.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import write_text
from nora_studio.runs.disk_errors import writing
from nora_studio.runs.process_id import ProcessId

LOCK = ".lock"
HOLDER = ".holder.json"
"""File that says which process holds the lock; separate from the lock file, which cannot be read on
some systems while it is locked."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder's lock within the block, after waiting for the process that holds it now.

    Raises:
        StudioError: the folder cannot be written.
    """
    lock = RunLock(folder)
    holder = lock.holder()
    if holder is not None:
        print(f"Waiting for process {holder.pid}, which is using {folder}.")
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


class RunLock:
    """The lock of one folder."""

    def __init__(self, folder: Path) -> None:
        """Set the folder, which is created when it is locked."""
        self.folder = folder
        self._lock = FileLock(folder / LOCK)
        self._made: list[Path] = []

    def acquire(self, wait: bool = False) -> None:
        """Take the lock.

        Args:
            wait: Wait for the process that holds it, instead of raising an error.

        Raises:
            StudioError: another process holds the lock, or the folder cannot be written.
        """
        with writing("its lock", self.folder):
            lineage = (self.folder, *self.folder.parents)
            self._made = [folder for folder in lineage if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                raise self.refusal() from None
            write_text(self.folder / HOLDER, json.dumps(asdict(ProcessId.own())) + "\n")

    def release(self, forget: bool = False) -> None:
        """Release the lock; with `forget`, also delete the folders that hold nothing else.

        Args:
            forget: Also remove the folder, and the parents that were created for it, if they hold
                nothing but the lock.
        """
        if not self._lock.is_locked:
            return
        with contextlib.suppress(OSError):
            (self.folder / HOLDER).unlink(missing_ok=True)
            if forget:
                (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.release()
        if forget:
            with contextlib.suppress(OSError):  # A folder holds other files.
                for folder in self._made or [self.folder]:
                    folder.rmdir()

    def refusal(self) -> StudioError:
        """Return the error for a process that finds the folder locked."""
        holder = self.holder()
        who = "another process" if holder is None else f"process {holder.pid}"
        there = f" on {holder.host}" if holder and holder.host != ProcessId.own().host else ""
        return StudioError(
            f"{self.folder} is being trained by {who}{there}. Wait for it, or stop it and --resume."
        )

    def holder(self) -> ProcessId | None:
        """Return the process that holds the lock; None if it is unknown or has ended."""
        try:
            values = json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        mark = ProcessId.from_values(values) if isinstance(values, dict) else None
        return mark if mark is not None and mark.is_alive() else None
