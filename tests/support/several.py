"""The trainer in two processes on this machine, at a size for tests.

Forked from the test's own process, which saves each its imports; `accelerate launch` starts them
anew, as a person would.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from support.trainer import SCRIPT, Outcome, run_trainer

WORLD = 2
PATIENCE_SECONDS = 240
UNTOLD = Outcome(-1, "", "")
"""Of a process that did not get so far."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun would tell a process, and that it may use this machine's own network only."""
    ranks = {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
    sizes = {name: str(WORLD) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return {**ranks, **sizes, **where, "ACCELERATE_USE_CPU": "true"}


@dataclass(frozen=True)
class Pair:
    """Two processes that train together."""

    processes: list
    folder: Path

    def wait(self) -> list[int]:
        """Each one's exit status, minus the signal that ended it; none is left running."""
        until = time.monotonic() + PATIENCE_SECONDS
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        hanging = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()
        assert not hanging, f"processes {hanging} hang; {self.said}"
        return [process.exitcode for process in self.processes]

    @property
    def said(self) -> list[Outcome]:
        """What each has told, by rank."""
        files = [self.folder / f"{rank}.json" for rank in range(WORLD)]
        return [Outcome(**json.loads(f.read_text())) if f.exists() else UNTOLD for f in files]


def start_pair(
    folder: Path,
    arguments: list[str],
    spoil: Callable[[int], None] | None = None,
    script: Path = SCRIPT,
    **variables: str,
) -> Pair:
    """Start the trainer in two processes.

    Args:
        folder: For what they tell; made.
        arguments: Of the trainer.
        spoil: Called first in each with its rank, to let something go wrong there.
        script: That is run.
        variables: More of their environment.
    """
    folder.mkdir(parents=True)
    port, fork = free_port(), multiprocessing.get_context("fork")
    processes = []
    for rank in range(WORLD):
        own = environment(rank, port) | variables
        process = fork.Process(target=_work, args=(folder, rank, own, arguments, spoil, script))
        process.start()
        processes.append(process)
    return Pair(processes, folder)


def _work(
    folder: Path,
    rank: int,
    variables: dict[str, str],
    arguments: list[str],
    spoil: Callable[[int], None] | None,
    script: Path,
) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    try:
        if spoil is not None:
            spoil(rank)
        outcome = run_trainer(*arguments, script=script)
    except BaseException:
        outcome = Outcome(1, "", traceback.format_exc())
    (folder / f"{rank}.json").write_text(json.dumps(asdict(outcome)))
    sys.exit(outcome.status)


def together(
    folder: Path, arguments: list[str], script: Path = SCRIPT, **variables: str
) -> list[Outcome]:
    """Train in two processes to the end."""
    pair = start_pair(folder, arguments, None, script, **variables)
    statuses = pair.wait()
    assert statuses == [outcome.status for outcome in pair.said], pair.said
    return pair.said
