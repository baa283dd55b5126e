"""Which process something belongs to, told apart from a later one that got the same number."""

import os
import platform
import re
from dataclasses import dataclass

import psutil

CLOCK_TOLERANCE = 5.0
"""Seconds by which a process's start may be told differently after the clock was set."""


@dataclass(frozen=True)
class ProcessMark:
    """A process: its number, when it started (seconds since 1970), and on which machine."""

    pid: int
    started: float
    host: str

    @classmethod
    def own(cls) -> "ProcessMark":
        return cls(os.getpid(), round(psutil.Process().create_time(), 2), host_name())

    def is_alive(self) -> bool:
        """Whether it runs still. Of another machine's nothing is known: that counts as running."""
        if self.host != host_name():
            return True
        born = born_at(self.pid)
        return born is not None and abs(born - self.started) <= CLOCK_TOLERANCE


def host_name() -> str:
    """This machine's name, in characters that a file's name may have."""
    return re.sub(r"[^\w-]", "-", platform.node())


def born_at(pid: int) -> float | None:
    """When the process of that number started, seconds since 1970; None where none runs."""
    try:
        process = psutil.Process(pid)
        # Killed, and only waiting for its parent to look.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return 0.0
