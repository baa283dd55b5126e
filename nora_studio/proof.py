"""The end of a training: the adapter is saved, and a fresh pipeline proves it."""

import gc
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nora_studio.atomic import replacing
from nora_studio.base import at_rest, load_base
from nora_studio.errors import StudioError
from nora_studio.generate import adapter_on
from nora_studio.samples import draw_sample, draw_sample_of
from nora_studio.subject import Subject
from nora_studio.trainee import Trainee


def finish(subject: Subject, trainee: Trainee) -> str:
    """Save the final adapter and prove it: a fresh pipeline must draw what the trainer drew.

    Returns:
        One line that says where the adapter is and how far the picture moved.

    Raises:
        StudioError: the proof failed; the adapter is kept for inspection, the run marked failed.
    """
    steps = subject.options.steps or 0
    trained = draw_sample(subject, trainee, steps)
    with replacing(trainee.run.adapter) as fresh:
        trainee.write_adapter(fresh, steps)
    run, device = trainee.run, trainee.accelerator.device
    trainee.accelerator.free_memory()
    del trainee
    gc.collect()
    reloaded = redraw(subject, run.adapter, device)
    with Image.open(run.sample_file("base")) as base:
        moved = _distance(trained, base)
    apart = _distance(trained, reloaded)
    # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
    if apart > (0.0 if device.type == "cpu" else 1.0):
        problem = f"the reloaded adapter draws another picture (off by {apart:.2f} of 255)"
    elif moved < MINIMUM_CHANGE:
        problem = f"the adapter changes nothing to be seen ({moved:.3f} of 255)"
    else:
        run.set_status("finished", steps, steps, change=round(moved, 3))
        return f"{run.adapter}: proven by a fresh pipeline; the sample moved {moved:.1f} of 255."
    run.set_status("failed", steps, steps, error=problem)
    raise StudioError(f"{run.adapter}: not done: {problem}. Train longer or with a higher rate.")


def redraw(subject: Subject, adapter: Path, device: torch.device) -> Image.Image:
    """Draw the sample by a fresh pipeline and a saved adapter, the shared base off the GPU."""
    with at_rest(subject.pipe):
        pipe = load_base(subject.options, subject.pipe.dtype, device).to(device)
        with adapter_on(pipe, adapter):
            return draw_sample_of(subject, pipe)


MINIMUM_CHANGE = 0.25
"""Mean difference of two pictures, in 8-bit levels, below which nobody would see one."""


def _distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference in 8-bit levels."""
    pixels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b)]
    return float(np.abs(pixels[0] - pixels[1]).mean())
