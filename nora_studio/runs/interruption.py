"""Stop a training at a chosen moment, with a real signal to its process."""

import os
import signal
import time
from collections.abc import Callable

from nora_studio.runs.launching import Process
from nora_studio.runs.runs import Run

POLL_SECONDS = 0.002


def signal_when(started: Process, number: signal.Signals, is_time: Callable[[], bool]) -> bool:
    """Send a signal to a process as soon as a condition holds.

    Returns:
        Whether the signal was sent; False if the process ended before.
    """
    while not is_time():
        if started.poll() is not None:
            return False
        time.sleep(POLL_SECONDS)
    if started.poll() is not None:
        return False
    try:
        os.kill(started.pid, number)
    except ProcessLookupError:
        return False
    return True


def has_reached(runs: list[Run], step: int) -> bool:
    """Return whether every run's status, written with each log line, has reached a step."""
    return all(run.read_status().get("step", 0) >= step for run in runs)
