"""One process at a time in a run's folder. The system lets go of the lock of a killed process."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import write_text
from nora_studio.runs.liveness import ProcessMark
from nora_studio.runs.storage import writing

LOCK = ".lock"
HOLDER = ".holder.json"
"""Who holds the lock, for whoever is refused; a file of its own, as some systems let nobody read
a locked one."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder alone within the block; wait for whoever holds it now.

    Raises:
        StudioError: the folder cannot be written.
    """
    lock = RunLock(folder)
    holder = lock.holder()
    if holder is not None:
        print(f"Waiting for process {holder.pid}, which is at work in {folder}")
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


class RunLock:
    """The right to write to one folder."""

    def __init__(self, folder: Path) -> None:
        """Name a folder; it is made when locked."""
        self.folder = folder
        self._lock = FileLock(folder / LOCK)
        self._made: list[Path] = []

    def acquire(self, wait: bool = False) -> None:
        """Take the lock, or refuse.

        Args:
            wait: Until whoever holds it is done, instead of refusing.

        Raises:
            StudioError: another process holds it, or the folder cannot be written.
        """
        with writing("to mark it as ours", self.folder):
            lineage = (self.folder, *self.folder.parents)
            self._made = [folder for folder in lineage if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                raise self.refusal() from None
            write_text(self.folder / HOLDER, json.dumps(asdict(ProcessMark.own())) + "\n")

    def release(self, forget: bool = False) -> None:
        """Let go.

        Args:
            forget: The folder came to nothing; remove it if the lock is all that it holds, and
                those above it that were made for it.
        """
        if not self._lock.is_locked:
            return
        with contextlib.suppress(OSError):
            (self.folder / HOLDER).unlink(missing_ok=True)
            if forget:
                (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.release()
        if forget:
            with contextlib.suppress(OSError):  # One holds more than that.
                for folder in self._made or [self.folder]:
                    folder.rmdir()

    def refusal(self) -> StudioError:
        """The line for whoever comes second."""
        holder = self.holder()
        who = "another process" if holder is None else f"process {holder.pid}"
        there = f" on {holder.host}" if holder and holder.host != ProcessMark.own().host else ""
        return StudioError(
            f"{self.folder} is being trained by {who}{there}. Wait for it, or stop it and --resume."
        )

    def holder(self) -> ProcessMark | None:
        """Who holds it, as far as that is known; a process that is no more does not."""
        try:
            values = json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        mark = ProcessMark.of(values) if isinstance(values, dict) else None
        return mark if mark is not None and mark.is_alive() else None
