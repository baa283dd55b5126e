"""The end of a training: the adapter is saved, and a fresh pipeline proves it."""

import gc

import numpy as np
from PIL import Image

from nora_studio.errors import StudioError
from nora_studio.generate import adapter_on
from nora_studio.models import load_sdxl
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
    with trainee.run.saving_adapter() as fresh:
        trainee.write_adapter(fresh, steps)
    run, device = trainee.run, trainee.accelerator.device
    trainee.accelerator.free_memory()
    del trainee
    gc.collect()
    fresh_pipe = load_sdxl(subject.options.model, subject.pipe.dtype, device)
    with adapter_on(fresh_pipe, run.adapter):
        reloaded = draw_sample_of(subject, fresh_pipe)
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


MINIMUM_CHANGE = 0.25
"""Mean difference of two pictures, in 8-bit levels, below which nobody would see one."""


def _distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference in 8-bit levels."""
    pixels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b)]
    return float(np.abs(pixels[0] - pixels[1]).mean())
