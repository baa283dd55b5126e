"""Identity of a process, distinct from a later process that is given the same number."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

CLOCK_TOLERANCE = 5.0
"""Seconds by which a process's reported start may change when the clock is set."""
MOST_PID = 2**31 - 1
"""Largest process number that a system uses."""


@dataclass(frozen=True)
class ProcessId:
    """A process: its number, when it started (seconds since 1970), and its machine's name."""

    pid: int
    started: float
    host: str

    @classmethod
    def own(cls) -> "ProcessId":
        """Return the identity of this process."""
        return cls(os.getpid(), round(psutil.Process().create_time(), 2), host_name())

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "ProcessId | None":
        """Return the identity stored among the values of a file; None if it is incomplete."""
        named: dict[str, Any] = {name: values.get(name) for name in ("pid", "started", "host")}
        return cls(**named) if all(cls.is_valid_field(*pair) for pair in named.items()) else None

    @staticmethod
    def is_valid_field(name: str, value: object) -> bool:
        """Return whether a value is possible for the field of that name."""
        if name == "pid":
            return type(value) is int and 0 < value <= MOST_PID
        if name == "started":
            if isinstance(value, bool) or not isinstance(value, int | float):
                return False
            return 0 <= value < 2**53  # So neither NaN nor infinite.
        return isinstance(value, str)

    def is_alive(self) -> bool:
        """Return whether the process still runs; one on another machine counts as running."""
        if self.host != host_name():
            return True
        started = process_start_time(self.pid)
        return started is not None and abs(started - self.started) <= CLOCK_TOLERANCE


def host_name() -> str:
    """Return this machine's name, in characters that a file name may have."""
    return re.sub(r"[^\w-]", "-", platform.node())


def process_start_time(pid: int) -> float | None:
    """Return when the process of a number started, in seconds since 1970; None if none runs."""
    if not 0 < pid <= MOST_PID:  # The system call does not accept other numbers.
        return None
    try:
        process = psutil.Process(pid)
        # A zombie has ended; only its parent has not noticed yet.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return 0.0
