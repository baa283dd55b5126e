"""One command of a visitor's: what was asked, and how it stands."""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["waiting", "running", "finished", "stopped", "failed", "cancelled"]
ENDED = ("finished", "stopped", "failed", "cancelled")

QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait sleep: where a training and a drawing share a CPU, spinning ones keep both from
getting on (a step of 0.6 s took up to a minute)."""


@dataclass(frozen=True)
class Job:
    """One command of one visitor's."""

    id: str
    visitor: str
    """Name of their workspace's folder."""
    kind: str
    """train, measure, score, ...: what the page calls it."""
    title: str
    command: tuple[str, ...]
    """As it runs, the program first."""
    shown: str
    """As a person would type it."""
    runs: tuple[str, ...] = ()
    """Names of the runs that it writes."""
    needs_secret: bool = False
    """Whether it was given environment variables that are kept nowhere."""
    uses_device: bool = True
    """Whether it waits for its turn on the GPU (or the CPU, where there is none)."""
    writes: int = 0
    """Bytes that it at least writes into the visitor's folder; of a job with runs, what these will
    have come to."""
    created: float = field(default_factory=lambda: round(time.time(), 2))


def read_facts(file: Path) -> dict[str, Any]:
    """A job's facts from one of its JSON files; empty while there are none."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def read_output(file: Path, most_bytes: int) -> str:
    """Read what a job printed, or the end of it; empty where there is no such file."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - most_bytes))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def shown_lines(text: str) -> list[str]:
    """Split output into lines as a terminal shows them: progress bars once."""
    shown = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in shown if line]
