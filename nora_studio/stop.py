"""Signals that end a training: obeyed between steps, with everything saved."""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """Turns SIGINT and SIGTERM into a request that the loop obeys between steps.

    A second signal of the same kind acts as it would without us, for who cannot wait.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
