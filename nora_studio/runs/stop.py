"""Signals that end a training: at once outside the loop; inside it after a step, all saved."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGHUP: int | None = getattr(signal, "SIGHUP", None)
"""A closed terminal. Windows has none."""

SIGKILL: signal.Signals = getattr(signal, "SIGKILL", signal.SIGTERM)
"""Ends a process at once. Windows has none; there SIGTERM does the same."""

SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, *(() if SIGHUP is None else (SIGHUP,)))
"""Ctrl-C, the signal of a scheduler or a shutdown, and a closed terminal."""


def end_on_early_interrupt() -> None:
    """Let Ctrl-C end a script while it imports, without a traceback.

    Call it first in an entry script, before the imports that take seconds.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


class Interrupted(KeyboardInterrupt):
    """Raised by a signal that ends the current work at once."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


class StopRequest:
    """Turns the signals into a request, which the loop follows after the current step.

    A second signal of the same kind has its usual effect, to stop without waiting.
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


class Interrupts:
    """What `ending_at_once` received, for code that must not take a signal for another error."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @contextmanager
    def raised_as_they_are(self) -> Iterator[None]:
        """Raise `Interrupted` again where a library has made another error of it.

        diffusers, for one, catches everything while it loads weights, and then says that the file
        is broken.
        """
        try:
            yield
        except Exception as error:
            if self.signal is None:
                raise
            raise Interrupted(self.signal) from error


@contextmanager
def ending_at_once(numbers: Sequence[int] = SIGNALS) -> Iterator[Interrupts]:
    """Raise `Interrupted` on a signal within the block, so that the work can be cleaned up."""
    received = Interrupts()

    def end(number: int, frame: FrameType | None) -> None:
        received.signal = signal.Signals(number)
        raise Interrupted(number)

    before, unraisable = _handle(end, numbers), sys.unraisablehook

    def send_again(lost: "sys.UnraisableHookArgs") -> None:
        """Send the signal once more if Python has dropped it, as it does in a `__del__`."""
        if isinstance(lost.exc_value, Interrupted):
            threading.Timer(0.05, os.kill, (os.getpid(), lost.exc_value.signal)).start()
        else:
            unraisable(lost)

    sys.unraisablehook = send_again
    try:
        yield received
    finally:
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            # A process that has left its group ignores signals (`processes.leave`).
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)


def _handle(
    receive: Callable[[int, FrameType | None], None], numbers: Sequence[int] = SIGNALS
) -> dict[int, Any]:
    """Install a handler for signals and return the previous handlers."""
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def receive_quietly(number: int, frame: FrameType | None) -> None:
        if number == SIGHUP:
            _redirect_to_null(terminals)
        receive(number, frame)

    # Under `nohup`, SIGHUP stays ignored.
    handled = [n for n in numbers if n != SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, receive_quietly) for number in handled}


def _redirect_to_null(terminals: list[int]) -> None:
    """Redirect output away from a closed terminal, where each write would be another error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in terminals:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
