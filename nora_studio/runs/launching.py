"""Processes that run an entry script: as a person starts it, or forked from one that is warm.

Starting Python and importing everything takes longer than a small training. Where a script is run
again and again, a server that has imported it all forks a child for each; the child runs the very
script, and can be killed like any process.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from nora_studio.runs.orphans import ending_with_us
from nora_studio.runs.scripts import script_command, script_path

TRAINER_ROOMS = (
    "nora_studio.trainer.run_session",
    "nora_studio.trainer.loop",
    "nora_studio.tasks.dreambooth.task",
    "nora_studio.tasks.dreambooth.setup",
    "nora_studio.tasks.dreambooth.verification",
    "nora_studio.trainer.saving",
)


class Started(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit status, -n if signal n killed it; None while it runs."""
        ...

    def wait(self) -> int:
        """As `poll`, once it has ended."""
        ...


Start = Callable[[str, Sequence[str], Path, Mapping[str, str]], Started]
"""Starts a script: its name, its arguments, a file for all that it says, its own environment."""


def start_fresh(
    name: str, arguments: Sequence[str], told: Path, environment: Mapping[str, str]
) -> Started:
    """Start a script in a new Python."""
    with told.open("ab") as stream:
        return subprocess.Popen(
            script_command(name, arguments),
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            preexec_fn=ending_with_us(),
        )


class ForkServer:
    """Starts scripts in forks of a process that has imported the trainer and done nothing else."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(TRAINER_ROOMS))

    def start(
        self, name: str, arguments: Sequence[str], told: Path, environment: Mapping[str, str]
    ) -> Started:
        """As `start_fresh`, without the seconds of importing."""
        words = (str(script_path(name)), list(arguments), str(told), dict(environment))
        process = self._context.Process(target=_run_script, args=words, daemon=True)
        process.start()
        return _Forked(process)


class _Forked:
    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _run_script(script: str, arguments: list[str], told: str, environment: dict[str, str]) -> None:
    """In the child: run a script as the main program, with the standard streams in a file."""
    stream = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(stream, descriptor)
    os.close(stream)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
