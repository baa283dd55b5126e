"""Scripts that run at the same time and are stopped together."""

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO

from nora_studio.errors import StudioError
from nora_studio.runs.child_processes import stop_with_parent


class ScriptPool:
    """Running scripts: a stop signal is passed on to all of them, and they save before they end."""

    def __init__(self) -> None:
        """Start with no scripts."""
        self.children: set[subprocess.Popen[str]] = set()
        self.stopped_by: int | None = None

    def call(self, command: Sequence[str], output: IO[str], environment: dict[str, str]) -> int:
        """Run a script to its end; threads may call this at the same time.

        Returns:
            The script's exit status.

        Raises:
            StudioError: a stop was requested.
        """
        if self.stopped_by is None:
            child = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env=environment,
                text=True,
                preexec_fn=stop_with_parent(),
            )
            self.children.add(child)
            if self.stopped_by is not None:  # Requested before the child was in the set.
                child.terminate()
            status = child.wait()
            self.children.discard(child)
            if self.stopped_by is None:
                return status
        raise StudioError("stopped; finished work is kept. Continue with the same command.")

    def run(self, work: Callable[[], int]) -> int:
        """Call a function that runs scripts; SIGTERM and Ctrl-C stop all of them.

        Returns:
            The function's exit status, or 128 + n if signal n stopped it.
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

    def stop(self, signum: int, frame: object = None) -> None:
        """Terminate all scripts and start no more; a signal handler."""
        self.stopped_by = signum
        for child in tuple(self.children):
            child.terminate()
