"""Memory that has run out, as an error of one line; the runs it ended are marked as failed."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from nora_studio.errors import StudioError
from nora_studio.runs.runs import Run

_CPU_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")


class OutOfMemory(StudioError):
    """The memory of a GPU, or of the machine, ran out."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that a GPU's or the machine's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(word in text for word in _CPU_WORDS)


@contextlib.contextmanager
def out_of_memory_in_one_line(
    runs: Mapping[str, Run], steps: int, savings: Sequence[str]
) -> Iterator[None]:
    """Turn memory that runs out in a block into an error with its remedies.

    Runs that are not finished are marked as failed; their checkpoints stay as they are.

    Args:
        steps: Of the whole run.
        savings: The options that would save memory, in words; one at least.

    Raises:
        OutOfMemory: memory ran out.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or ["no more to be had"])[0]
    ways = ", ".join([*savings[:-1], f"or {savings[-1]}"]) if savings[1:] else savings[0]
    problem = f"out of memory: {reason} Use {ways}. Checkpoints are kept."
    for run in runs.values():
        status = run.read_status()
        if run.exists and status.get("state") != "finished":
            run.set_status("failed", status.get("step", 0), steps, error=problem)
    raise OutOfMemory(problem)
