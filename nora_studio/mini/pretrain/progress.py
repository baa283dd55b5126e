"""One run's clock, deadline and log."""

import json
import time
from pathlib import Path
from typing import Any

import torch

Log = dict[str, Any]


class Progress:
    """A run's clock and deadline, printed lines and log."""

    def __init__(self, deadline_seconds: float, started: float, log: Log | None = None) -> None:
        """Take the start, a `time.time()` from before slow imports, so that they count."""
        self.started = started
        self.deadline_seconds = deadline_seconds
        self.log: Log = log or {}
        self._last_line = 0.0

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.time() - self.started

    def left(self) -> float:
        """Return the seconds before the deadline; negative after it."""
        return self.deadline_seconds - self.seconds()

    def say(self, text: str) -> None:
        """Print a line with the clock and the peak memory."""
        memory = ""
        if torch.cuda.is_initialized():
            memory = f" {torch.cuda.max_memory_allocated() / 2**30:5.1f} GiB"
        self._last_line = self.seconds()
        print(f"[{self.seconds():6.1f} s, {self.left():5.0f} left{memory}] {text}", flush=True)

    def is_due(self, interval_seconds: float = 10.0) -> bool:
        """Return whether the last line is older than `interval_seconds`."""
        return self.seconds() - self._last_line > interval_seconds

    def note(self, stage: str, **facts: Any) -> None:
        """Record facts of a stage in the log."""
        self.log.setdefault(stage, {}).update(facts)

    def write(self, path: Path) -> None:
        """Write the log as JSON."""
        write_json(path, self.log)


def write_json(path: Path, content: Log) -> None:
    """Write JSON atomically, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
