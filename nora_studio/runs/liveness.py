"""Which process something belongs to, told apart from a later one that got the same number."""

import math
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

CLOCK_TOLERANCE = 5.0
"""Seconds by which a process's start may be told differently after the clock was set."""
MOST_PID = 2**31 - 1
"""No system here numbers its processes higher."""


@dataclass(frozen=True)
class ProcessMark:
    """A process: its number, when it started (seconds since 1970), and on which machine."""

    pid: int
    started: float
    host: str

    @classmethod
    def own(cls) -> "ProcessMark":
        return cls(os.getpid(), round(psutil.Process().create_time(), 2), host_name())

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "ProcessMark | None":
        """The mark among the values of a file; None where it is not there whole."""
        named: dict[str, Any] = {name: values.get(name) for name in ("pid", "started", "host")}
        return cls(**named) if all(cls.fits(*pair) for pair in named.items()) else None

    @staticmethod
    def fits(name: str, value: Any) -> bool:
        """Whether a value is of the kind that a mark has under a name."""
        if name == "pid":
            return type(value) is int and 0 < value <= MOST_PID
        if name == "started":
            return type(value) in (int, float) and 0 <= value < 2**53 and math.isfinite(value)
        return isinstance(value, str)

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
    if not 0 < pid <= MOST_PID:  # Which the system's own call does not take.
        return None
    try:
        process = psutil.Process(pid)
        # Killed, and only waiting for its parent to look.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return 0.0
