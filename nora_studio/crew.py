"""Scripts at work side by side, which a stop reaches all."""

import subprocess
from collections.abc import Sequence
from typing import IO

from nora_studio.errors import StudioError


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
                command, stdout=output, stderr=output, env=environment, text=True
            )
            self.children.add(child)
            if self.stopped_by is not None:  # Between those two lines.
                child.terminate()
            status = child.wait()
            self.children.discard(child)
            if self.stopped_by is None:
                return status
        raise StudioError("stopped; what is finished is kept. Go on with the same command.")

    def stop(self, number: int, frame: object = None) -> None:
        """Ask all to end, and begin none; a signal's handler."""
        self.stopped_by = number
        for child in tuple(self.children):
            child.terminate()
