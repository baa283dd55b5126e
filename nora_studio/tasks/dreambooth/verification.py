"""The proof of a saved adapter: a fresh pipeline must draw what the trainer drew."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.sdxl.base import at_rest
from nora_studio.sdxl.generate import adapter_on
from nora_studio.tasks.dreambooth.previews import (
    fresh_pipe,
    preview_files,
    previews_of,
    spread,
)
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.trainer.task import Proof

MINIMUM_CHANGE = 0.25
"""Mean difference of two pictures, in 8-bit levels, below which nobody would see one."""


def verify(
    subject: Subject, run: Run, trained: list[Image.Image], device: torch.device
) -> Proof | None:
    """Draw the samples by a fresh pipeline and the saved adapter; compare them with the trainer's.

    They must be the same pictures, and not those of the base.

    Args:
        trained: What the trainer drew as of the saved step.
        device: Where the pipeline is loaded.
    """
    reloaded = redraw(subject, run.adapter, device)
    return processes.on_main(lambda: _judge(run, trained, reloaded, device))


def _judge(
    run: Run, trained: list[Image.Image], reloaded: list[Image.Image], device: torch.device
) -> Proof:
    # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
    tolerance = 0.0 if device.type == "cpu" else 1.0
    bare = preview_files(run, 0, len(trained))
    moved = [_distance_to_file(picture, file) for picture, file in zip(trained, bare, strict=True)]
    apart = max(_distance(*pair) for pair in zip(trained, reloaded, strict=True))
    if apart > tolerance:
        problem = f"the reloaded adapter draws another picture (off by {apart:.2f} of 255)"
    elif max(moved) < MINIMUM_CHANGE:
        problem = f"the adapter changes nothing to be seen ({max(moved):.3f} of 255)"
    else:
        change = sum(moved) / len(moved)
        line = f"{{adapter}}: proven by a fresh pipeline; the samples moved {change:.1f} of 255."
        return Proof(None, line, {"change": round(change, 3)})
    return Proof(
        problem, f"{run.adapter}: not done: {problem}. Train longer or with a higher rate."
    )


def redraw(subject: Subject, adapter: Path, device: torch.device) -> list[Image.Image]:
    """Draw the samples by a fresh pipeline and a saved adapter, the shared base off the GPU."""
    with at_rest(subject.pipe) if subject.sharding is None else contextlib.nullcontext():
        pipe = fresh_pipe(subject, device)
        with adapter_on(pipe, adapter):
            spread(subject, pipe, device)
            return previews_of(subject, pipe)


def _distance(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference in 8-bit levels."""
    pixels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def _distance_to_file(a: Image.Image, file: Path) -> float:
    with Image.open(file) as b:
        return _distance(a, b)
