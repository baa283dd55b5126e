"""Signals that end a training: at once outside of the loop; within it between steps, all saved."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGHUP: int | None = getattr(signal, "SIGHUP", None)
"""A closed terminal. Windows has none."""

SIGKILL: signal.Signals = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Ends a process at once. Windows has none, but there SIGTERM does the same."""

SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, *(() if SIGHUP is None else (SIGHUP,)))
"""Ctrl-C, what a scheduler or a shutdown sends, and a closed terminal."""


def end_on_early_interrupt() -> None:
    """Have Ctrl-C simply end a script while it imports: that takes seconds and has begun nothing.

    The first line of an entry script, before its heavier imports.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class Interrupted(KeyboardInterrupt):
    """A signal that ends at once what is under way."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


class StopRequest:
    """Turns the signals into a request that the loop obeys between steps.

    A second signal of the same kind acts as it would without us, for who cannot wait.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = _handle(self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(number, self._before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Within the block, a signal raises `Interrupted`, so that nothing is left half done."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = _handle(end)
    try:
        yield
    finally:
        for number, handler in before.items():
            # Whoever leaves a group of processes is deaf from then on (`processes.leave`).
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)


def _handle(receive: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Have all signals received; what received them before."""
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def receive_deaf(number: int, frame: FrameType | None) -> None:
        if number == SIGHUP:
            _leave(terminals)
        receive(number, frame)

    # `nohup` says that a closed terminal is none of our business.
    heard = [n for n in SIGNALS if n != SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, receive_deaf) for number in heard}


def _leave(terminals: list[int]) -> None:
    """Write nothing more to a closed terminal: each try would be an error of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
