"""Report an out-of-memory error in one line, and mark the runs that it ended as failed."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from nora_studio.errors import StudioError
from nora_studio.runs.runs import Run

_CPU_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")


class OutOfMemory(StudioError):
    """An error of a GPU or the machine that ran out of memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that a GPU or the machine ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(word in text for word in _CPU_WORDS)


@contextlib.contextmanager
def out_of_memory_in_one_line(
    runs: Mapping[str, Run], steps: int, tips: Sequence[str]
) -> Iterator[None]:
    """Turn an out-of-memory error in the block into one that says which options save memory.

    Runs that are not finished are marked as failed; their checkpoints are kept.

    Args:
        steps: Steps of the whole run.
        tips: At least one option that would save memory, in words.

    Raises:
        OutOfMemory: memory ran out.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or ["none is left"])[0]
    ways = ", ".join([*tips[:-1], f"or {tips[-1]}"]) if tips[1:] else tips[0]
    problem = f"out of memory: {reason} Use {ways}. Checkpoints are kept."
    for run in runs.values():
        status = run.read_status()
        if run.exists and status.get("state") != "finished":
            run.set_status("failed", status.get("step", 0), steps, error=problem)
    raise OutOfMemory(problem)
