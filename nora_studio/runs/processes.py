"""Several processes in one training: joining, waiting, reducing values, and stopping together.

Communication uses gloo and CPU tensors, on a GPU too: a wait of many minutes does not run into
NCCL's watchdog, and no call waits for the GPU. When one process works alone (`main_first`), the
others are sent its outcome, so that they do not wait for a process that has failed. Inside such a
block, and in a run of one process, all functions here return at once.
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

TIMEOUT = timedelta(days=1)
"""Long enough for one process to generate a hundred class images on a CPU. Launchers end the
others at once if one dies."""

Result = TypeVar("Result")

_alone: ContextVar[bool] = ContextVar("alone", default=False)


def join() -> None:
    """Join the processes that a launcher started. Call it before anything else of Accelerate.

    Raises:
        StudioError: several processes were requested, but the launcher started one.
    """
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        _check_alone()
        return
    from accelerate import PartialState  # Slow to import, and not needed in a single process.
    from accelerate.utils import parse_flag_from_env

    # Accelerate looks for processes on a CPU only if it is told not to use a GPU.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    backend = "gloo" if on_cpu else "cuda:nccl,cpu:gloo"
    PartialState(cpu=on_cpu, backend=backend, timeout=TIMEOUT)


def _check_alone() -> None:
    """Refuse a single process of `accelerate launch --cpu --num_processes 2` without MPI."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    by_mpi = any(f"{name}_SIZE" in os.environ for name in ("PMI", "OMPI_COMM_WORLD", "WORLD"))
    if launched and not by_mpi:
        raise StudioError(
            "expected several processes, but on a CPU `accelerate launch` starts only one. Start "
            "them with `torchrun --nproc-per-node 2 training/dreambooth_nora.py ...`, or leave "
            "--num_processes out."
        )


def leave() -> None:
    """Wait for all processes to finish, then leave the group.

    A launcher terminates the other processes as soon as one ends with a nonzero status. After this
    call each process ignores that and ends with its own status.
    """
    if not dist.is_initialized():
        return
    barrier()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    dist.destroy_process_group()


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def _is_alone() -> bool:
    """Return whether this is the only process, or it is inside a block of `main_first`."""
    return count() == 1 or _alone.get()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Return whether this is the main process, which writes files and prints."""
    return rank() == 0


def all_reduce_max(value: float) -> float:
    """Return the largest of all processes' values, on every process."""
    if _is_alone():
        return value
    largest = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()


def barrier() -> None:
    """Wait until every process has called this."""
    all_reduce_max(0)


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Return every process's tensor, by rank; tensors are on the CPU, of one shape and dtype."""
    if _is_alone():
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(count())]
    dist.all_gather(found, tensor)
    return found


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Run a block on the main process first, then on the others, without communication inside.

    If the block fails on the main process, the others end with its exit status, without entering
    the block and without a message.
    """
    if _is_alone():
        yield
    elif not is_main():
        outcome = int(all_reduce_max(0))
        if outcome:
            raise SystemExit(outcome - 1)
        with _by_itself():
            yield
    else:
        try:
            with _by_itself():
                yield
        except BaseException as error:
            # The other processes may have died too; this error is the one to report.
            with contextlib.suppress(RuntimeError):
                all_reduce_max(1 + _status(error))
            raise
        all_reduce_max(0)


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _status(error: BaseException) -> int:
    """Return the exit status with which an error ends a process."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return 2 if isinstance(error, StudioError) else 1


def on_main(work: Callable[[], Result]) -> Result | None:
    """Call a function on the main process while the others wait; return its result, else None.

    Raises:
        SystemExit: on the other processes, if the function fails on the main one.
    """
    with main_first():
        return work() if is_main() else None


def agree_to_stop(stop: StopRequest) -> bool:
    """Return whether any process was asked to stop, and give every process the same request.

    All processes call this after each step: a signal may reach them at different steps, or reach
    only one.
    """
    number = int(all_reduce_max(stop.signal or 0))
    if number:
        stop.signal = signal.Signals(number)
    return bool(number)


def check_shares(batch_size: int, pieces: int = 1) -> None:
    """Refuse a batch size that cannot be split into equal shares.

    Args:
        batch_size: Images per step, over all processes.
        pieces: Micro-batches per step and process (--accumulate).

    Raises:
        StudioError: the shares would differ, and with them the weight of each image in the loss.
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
        f"{' x '.join(parts)}; got {batch_size}. Set it to {nearest}."
    )


def seed_other_processes(seed: int) -> None:
    """Seed torch's global generators differently on each process but the main one, for dropout."""
    if not is_main():
        torch.manual_seed(seed + 1_000_003 * rank())
