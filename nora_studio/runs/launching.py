"""Processes that run an entry script: started as from a shell, or forked from a fork server.

Starting Python and importing everything takes longer than a small training. To run a script many
times, a server process imports everything once and forks a child for each run. The child runs the
script itself and can be killed like any process.
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

from nora_studio.runs.child_processes import stop_with_parent
from nora_studio.runs.scripts import script_command, script_path

TRAINER_MODULES = (
    "nora_studio.trainer.run_session",
    "nora_studio.trainer.loop",
    "nora_studio.tasks.dreambooth.task",
    "nora_studio.tasks.dreambooth.setup",
    "nora_studio.tasks.dreambooth.verification",
    "nora_studio.trainer.saving",
)


class Process(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int:
        """The process's number."""
        ...

    def poll(self) -> int | None:
        """Return the exit status, -n if signal n killed it; None while it runs."""
        ...

    def wait(self) -> int:
        """Wait until the process ends, and return its exit status as `poll` does."""
        ...


Start = Callable[[str, Sequence[str], Path, Mapping[str, str]], Process]
"""Starts a script, given its name, arguments, a file for its output, and more environment."""


def start_in_new_process(
    name: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str]
) -> Process:
    """Start a script in a new Python process."""
    with output.open("ab") as stream:
        return subprocess.Popen(
            script_command(name, arguments),
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            preexec_fn=stop_with_parent(),
        )


class ForkServer:
    """Starts scripts in forks of a process that has only imported the trainer."""

    def __init__(self) -> None:
        """Set the modules to import; the server itself starts with the first script."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(TRAINER_MODULES))

    def start(
        self, name: str, arguments: Sequence[str], output: Path, environment: Mapping[str, str]
    ) -> Process:
        """Start a script as `start_in_new_process` does, without the seconds of importing."""
        values = (str(script_path(name)), list(arguments), str(output), dict(environment))
        process = self._context.Process(target=_run_script, args=values, daemon=True)
        process.start()
        return _ForkedProcess(process)


class _ForkedProcess:
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


def _run_script(
    script: str, arguments: list[str], output: str, environment: dict[str, str]
) -> None:
    """Run a script as the main program of the child, with its output in a file."""
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(stream, descriptor)
    os.close(stream)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
