"""Stop a training at a moment of its own, by a real signal to its process."""

import os
import signal
import time
from collections.abc import Callable

from nora_studio.runs.launching import Started
from nora_studio.runs.runs import Run

GLANCE_SECONDS = 0.002


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


def has_reached(runs: list[Run], step: int) -> bool:
    """Whether every run's status, written with each log line, tells of a step or a later one."""
    return all(run.read_status().get("step", 0) >= step for run in runs)
