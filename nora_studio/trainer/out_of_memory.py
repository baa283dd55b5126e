"""Memory that has run out, told in one line; the runs it ended are marked as failed."""

import contextlib
from collections.abc import Iterator

import torch

from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions
from nora_studio.runs.run_folders import locate_runs

_CPU_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a GPU's or the machine's memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(word in text for word in _CPU_WORDS)


@contextlib.contextmanager
def told_in_one_line(options: DreamboothOptions) -> Iterator[None]:
    """Turn memory that runs out in a block into an error with its remedies.

    Runs that are not finished are marked as failed; their checkpoints stay as they are.

    Raises:
        StudioError: memory ran out.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or ["no more to be had"])[0]
    problem = f"out of memory: {reason} {_remedy(options)}"
    for run in locate_runs(options)[1].values():
        status = run.read_status()
        if run.exists and status.get("state") != "finished":
            run.set_status("failed", status.get("step", 0), options.steps or 0, error=problem)
    raise StudioError(problem)


def _remedy(options: DreamboothOptions) -> str:
    ways = ["--fit GB, which finds settings that fit into so much"]
    if not options.gradient_checkpointing:
        ways.append("--gradient-checkpointing")
    if (options.batch_size or 1) > 1:
        ways.append("a smaller --batch-size")
    if options.base_bits == 16:
        ways.append("--base-bits 8 or 4")
    return f"Use {', '.join(ways)}, or a smaller --resolution. Checkpoints are kept."
