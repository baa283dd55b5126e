"""Several processes as one training: who is the main one, who waits for whom, what all agree on.

All of it goes through gloo and CPU tensors, on a GPU too: so a wait of many minutes never runs
into NCCL's watchdog, and asking the others never waits for a GPU. Where one process works alone,
its end, good or bad, is told to all; none is left waiting for one that has failed. A process that
works alone asks nobody: within, as in a run of one process, everything here does nothing.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.runs.stop import StopRequest

PATIENCE = timedelta(days=1)
"""For one process at work alone: a hundred class pictures on a CPU take hours. Launchers end the
others at once if one dies."""

Result = TypeVar("Result")

_alone: ContextVar[bool] = ContextVar("alone", default=False)


def join() -> None:
    """Meet the other processes that a launcher started; before anything else of Accelerate.

    Raises:
        StudioError: several processes were asked for, and one was started.
    """
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        _check_alone()
        return
    from accelerate import PartialState  # Most who ask about processes are in none.
    from accelerate.utils import parse_flag_from_env

    # Accelerate looks for processes on a CPU only where it is told that there is no GPU.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    backend = "gloo" if on_cpu else "cuda:nccl,cpu:gloo"
    PartialState(cpu=on_cpu, backend=backend, timeout=PATIENCE)


def _check_alone() -> None:
    """Refuse what `accelerate launch --cpu --num_processes 2` does without MPI: start one."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    by_mpi = any(f"{name}_SIZE" in os.environ for name in ("PMI", "OMPI_COMM_WORLD", "WORLD"))
    if launched and not by_mpi:
        raise StudioError(
            "several processes were asked for, but on a CPU `accelerate launch` starts one. Start "
            "them with `torchrun --nproc-per-node 2 training/dreambooth_nora.py ...`, or leave "
            "--num_processes out."
        )


def leave() -> None:
    """Part from the others when all are through, so that none is ended in the midst of its work.

    A launcher ends its other processes as soon as one has gone with a status other than 0; from
    here on each still ends with its own.
    """
    if not dist.is_initialized():
        return
    wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    dist.destroy_process_group()


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _is_alone() -> bool:
    """Whether this process is the only one, or at work by itself."""
    return count() == 1 or _alone.get()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes, draws and tells."""
    return rank() == 0


def largest(value: float) -> float:
    """The largest of all processes' values, told to each."""
    if _is_alone():
        return value
    box = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return box.item()


def wait() -> None:
    """Go on when every process is here."""
    largest(0)


def gathered(tensor: Tensor) -> list[Tensor]:
    """Every process's tensor, by rank; on the CPU, of one shape and dtype everywhere."""
    if _is_alone():
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(count())]
    dist.all_gather(found, tensor)
    return found


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """A block that the main process goes through first, and then the others; each alone.

    If it fails there, the others end without entering the block, with its status and no words.
    """
    if _is_alone():
        yield
    elif not is_main():
        told = int(largest(0))
        if told:
            raise SystemExit(told - 1)
        with _by_itself():
            yield
    else:
        try:
            with _by_itself():
                yield
        except BaseException as error:
            # Whoever waits may be gone too; what matters is what happened here.
            with contextlib.suppress(RuntimeError):
                largest(1 + _status(error))
            raise
        largest(0)


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _status(error: BaseException) -> int:
    """The exit status that an error ends a process with."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return 2 if isinstance(error, StudioError) else 1


def on_main(work: Callable[[], Result]) -> Result | None:
    """What the main process makes alone, the others waiting; None on them.

    Raises:
        SystemExit: on the others, if it fails; it says why.
    """
    with main_first():
        return work() if is_main() else None


def agree_to_stop(stop: StopRequest) -> bool:
    """Whether any process was asked to stop; then every one's request is the same.

    Called by all after each step: a signal may reach them at different steps, or one alone.
    """
    asked = int(largest(stop.signal or 0))
    if asked:
        stop.signal = signal.Signals(asked)
    return bool(asked)


def check_shares(batch_size: int, pieces: int = 1) -> None:
    """Refuse a batch that cannot be shared equally.

    Args:
        batch_size: Pictures a step, over all processes.
        pieces: That each process takes its share in, by accumulation.

    Raises:
        StudioError: the shares would differ, and so what each picture counts.
    """
    shares = count() * pieces
    if batch_size % shares == 0:
        return
    below = batch_size // shares * shares
    nearest = f"{below} or {below + shares}" if below else f"{shares}"
    parts = [f"{count()} processes"] if count() > 1 else []
    parts += [f"{pieces} pieces (--accumulate)"] if pieces > 1 else []
    raise StudioError(
        f"--batch-size: expected a multiple of {shares}, an equal share for each of "
        f"{' x '.join(parts)}; got {batch_size}. The nearest: {nearest}."
    )


def part_ways(seed: int) -> None:
    """Give each process but the main one draws of its own (dropout) from torch's generators."""
    if not is_main():
        torch.manual_seed(seed + 1_000_003 * rank())
