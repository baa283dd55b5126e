"""Stop a training at a moment of its own, by a real signal to its process."""

import os
import signal
import time
from collections.abc import Callable

from nora_studio.launching import Started
from nora_studio.runs import Run

GLANCE_SECONDS = 0.001


def signal_when(started: Started, number: signal.Signals, is_time: Callable[[], bool]) -> bool:
    """Send a signal to a process as soon as it is time.

    Returns:
        Whether it was sent; False if the process ended before.
    """
    while not is_time():
        if started.poll() is not None:
            return False
        time.sleep(GLANCE_SECONDS)
    if started.poll() is not None:
        return False
    try:
        os.kill(started.pid, number)
    except ProcessLookupError:
        return False
    return True


def has_logged(runs: list[Run], step: int) -> bool:
    """Whether every run has a log line of a step or a later one."""
    return all(any(row["step"] >= step for row in run.read_log()) for run in runs)
