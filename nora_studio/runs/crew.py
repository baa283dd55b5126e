"""Scripts at work side by side, which a stop reaches all."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO

from nora_studio.errors import StudioError
from nora_studio.runs.orphans import ending_with_us


class Crew:
    """The trainer's processes at work: a stop reaches them all, and they save before they end."""

    def __init__(self) -> None:
        self.children: set[subprocess.Popen[str]] = set()
        self.stopped_by: int | None = None

    def call(self, command: Sequence[str], output: IO[str], environment: dict[str, str]) -> int:
        """Run one to its end.

        Returns:
            Its exit status.

        Raises:
            StudioError: a stop was asked for.
        """
        if self.stopped_by is None:
            child = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env=environment,
                text=True,
                preexec_fn=ending_with_us(),
            )
            self.children.add(child)
            if self.stopped_by is not None:  # Between those two lines.
                child.terminate()
            status = child.wait()
            self.children.discard(child)
            if self.stopped_by is None:
                return status
        raise StudioError("stopped; what is finished is kept. Go on with the same command.")

    def lead(self, work: Callable[[], int]) -> int:
        """Do some work that calls scripts; SIGTERM and Ctrl-C stop them all.

        Returns:
            The work's exit status, or 128 + n where signal n stopped it.
        """
        before = {n: signal.signal(n, self.stop) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            return work()
        except StudioError as error:
            if self.stopped_by is None:
                raise
            print(error, file=sys.stderr)
            return 128 + self.stopped_by
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, number: int, frame: object = None) -> None:
        """Ask all to end, and begin none; a signal's handler."""
        self.stopped_by = number
        for child in tuple(self.children):
            child.terminate()
