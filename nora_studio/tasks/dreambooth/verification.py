"""The end of a training: the adapter is saved, and a fresh pipeline proves it."""

import contextlib
import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nora_studio.errors import StudioError
from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.sdxl.base import at_rest
from nora_studio.sdxl.generate import adapter_on
from nora_studio.tasks.dreambooth.samples import (
    draw_samples,
    draw_samples_of,
    fresh_pipe,
    sample_files,
    spread,
)
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.trainer.saving import set_back
from nora_studio.trainer.trainee import Trainee

Show = Callable[[Trainee, int], list[Image.Image]]
"""Draws a trainee's samples as of a step and keeps them in its run."""


def finish(
    subject: Subject,
    trainee: Trainee,
    show: Show | None = None,
    last: int | None = None,
    reasons: Mapping[str, str] | None = None,
) -> str | None:
    """Save the final adapter and prove it: a fresh pipeline must draw what the trainer drew.

    Called by the main process alone, or by all where the base is in shards.

    Args:
        show: None: `draw_samples`.
        last: The last step that was trained. None: the options' steps.
        reasons: Why that is before the options' steps, by the trainees' labels.

    Returns:
        One line that says where the adapter is and how far the pictures moved, on the main
        process.

    Raises:
        StudioError: the proof failed; the adapter is kept for inspection, the run marked failed.
    """
    options, steps = subject.options, subject.options.steps or 0
    show = show or partial(draw_samples, subject)
    step = last = steps if last is None else last
    best = trainee.best if options.final == "best" else None
    # The main process alone knows it.
    best_step = int(processes.largest(0 if best is None else best.step))
    if best_step not in (0, last):
        show(trainee, last)
        set_back(trainee, best_step)
        step = best_step
    trained = show(trainee, step)
    processes.on_main(partial(_save_final, trainee, step))
    run, device = trainee.run, trainee.accelerator.device
    facts: dict[str, Any] = {**trainee.best_facts, "adapter_step": step}
    if reasons and trainee.label in reasons:
        facts["ended"] = reasons[trainee.label]
    trainee.accelerator.free_memory()
    del trainee
    gc.collect()
    reloaded = redraw(subject, run.adapter, device)
    # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
    tolerance = 0.0 if device.type == "cpu" else 1.0
    ending = _Ending(run, last, steps, facts)
    return processes.on_main(lambda: _judge(ending, trained, reloaded, tolerance))


@dataclass(frozen=True)
class _Ending:
    """What is known of a run at its end."""

    run: Run
    last: int
    steps: int
    facts: dict[str, Any]


def _save_final(trainee: Trainee, step: int) -> None:
    with trainee.run.saving_adapter() as fresh, trainee.served():
        trainee.write_adapter(fresh, step)


def _judge(
    ending: _Ending, trained: list[Image.Image], reloaded: list[Image.Image], tolerance: float
) -> str:
    """Compare the pictures of the trainer, the reloaded adapter and the base, and say so."""
    run, last, steps, facts = ending.run, ending.last, ending.steps, ending.facts
    bare = sample_files(run, 0, len(trained))
    moved = [_distance_to_file(picture, file) for picture, file in zip(trained, bare)]
    apart = max(_distance(*pair) for pair in zip(trained, reloaded))
    if apart > tolerance:
        problem = f"the reloaded adapter draws another picture (off by {apart:.2f} of 255)"
    elif max(moved) < MINIMUM_CHANGE:
        problem = f"the adapter changes nothing to be seen ({max(moved):.3f} of 255)"
    else:
        change = sum(moved) / len(moved)
        run.set_status("finished", last, steps, change=round(change, 3), **facts)
        step = facts["adapter_step"]
        which = "" if step == last else f" as of step {step}, the best"
        return (
            f"{run.adapter}{which}: proven by a fresh pipeline; "
            f"the samples moved {change:.1f} of 255."
        )
    run.set_status("failed", last, steps, error=problem, **facts)
    raise StudioError(f"{run.adapter}: not done: {problem}. Train longer or with a higher rate.")


def redraw(subject: Subject, adapter: Path, device: torch.device) -> list[Image.Image]:
    """Draw the samples by a fresh pipeline and a saved adapter, the shared base off the GPU."""
    with at_rest(subject.pipe) if subject.sharding is None else contextlib.nullcontext():
        pipe = fresh_pipe(subject, device)
        with adapter_on(pipe, adapter):
            spread(subject, pipe, device)
            return draw_samples_of(subject, pipe)


MINIMUM_CHANGE = 0.25
"""Mean difference of two pictures, in 8-bit levels, below which nobody would see one."""


def _distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference in 8-bit levels."""
    pixels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def _distance_to_file(a: Image.Image, file: Path) -> float:
    with Image.open(file) as b:
        return _distance(a, b)
