"""A trainer in a process of its own, to be stopped and killed."""

import time
from collections.abc import Callable
from pathlib import Path

ONE_PART = {
    f"{part}.{name}": None
    for part in ("text-encoder", "text-encoder-2")
    for name in ("rank", "outer-rank", "learning-rate")
} | {"text-encoder.no-train": True, "text-encoder-2.no-train": True}


LONG = ONE_PART | {"steps": 3000, "log-every": 1, "checkpoint-every": 3, "sample-every": 0}


SHORT = ONE_PART | {"steps": 4, "log-every": 1, "sample-every": 2}


def told(folder: Path) -> str:
    text = (folder / "told.txt").read_text()
    assert "Traceback" not in text
    return text


def errors(folder: Path) -> list[str]:
    return [line for line in told(folder).splitlines() if line.startswith("error: ")]


def wait_until(is_time: Callable[[], object], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not is_time():
        assert time.monotonic() < until
        time.sleep(0.005)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]
