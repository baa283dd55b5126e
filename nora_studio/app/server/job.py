"""One command of a visitor, and its possible states."""

import time
from dataclasses import dataclass, field
from typing import Literal

State = Literal["waiting", "running", "finished", "stopped", "failed", "cancelled"]
ENDED = ("finished", "stopped", "failed", "cancelled")
MEASURES = "measures"
"""The folder next to the jobs that preflights write their results to."""

QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Waiting threads sleep: where a training and an image job share a CPU, spinning threads slow both
down (a step of 0.6 s took up to a minute)."""


@dataclass(frozen=True)
class Job:
    """One command of one visitor."""

    id: str
    visitor: str
    """Name of their workspace's folder."""
    kind: str
    """The page's name for the command: train, measure, score, ..."""
    title: str
    command: tuple[str, ...]
    """The argument list to run, the program first."""
    shown: str
    """The command as a person would type it."""
    runs: tuple[str, ...] = ()
    """Names of the runs that it writes."""
    needs_secret: bool = False
    """Whether it needs environment variables that are never stored."""
    uses_device: bool = True
    """Whether it waits for the GPU (or the CPU, where there is none)."""
    writes: int = 0
    """Lower bound of the bytes that it writes into the visitor's folder; for a job with runs, their
    final size."""
    created: float = field(default_factory=lambda: round(time.time(), 2))
