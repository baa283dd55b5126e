"""Verify a saved adapter: in a freshly loaded pipeline it must give the trainer's previews."""

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
    shard_unet,
)
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.trainer.task import Verification

MINIMUM_CHANGE = 0.25
"""Smallest mean difference of two images, in 8-bit levels, that is visible."""


def verify(
    subject: Subject, run: Run, trained: list[Image.Image], device: torch.device
) -> Verification | None:
    """Generate the previews with a fresh pipeline and the saved adapter, and compare them.

    They must equal the trainer's, and differ from the base's.

    Args:
        trained: The trainer's previews of the saved step.
        device: Device to load the pipeline on.
    """
    reloaded = regenerate(subject, run.adapter, device)
    return processes.on_main(lambda: _compare(run, trained, reloaded, device))


def _compare(
    run: Run, trained: list[Image.Image], reloaded: list[Image.Image], device: torch.device
) -> Verification:
    # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
    tolerance = 0.0 if device.type == "cpu" else 1.0
    bare = preview_files(run, 0, len(trained))
    moved = [
        _difference_from_file(picture, file) for picture, file in zip(trained, bare, strict=True)
    ]
    apart = max(_image_difference(*pair) for pair in zip(trained, reloaded, strict=True))
    if apart > tolerance:
        problem = f"the reloaded adapter generates another image (off by {apart:.2f} of 255)"
    elif max(moved) < MINIMUM_CHANGE:
        problem = f"the adapter has no visible effect ({max(moved):.3f} of 255)"
    else:
        change = sum(moved) / len(moved)
        line = f"{{adapter}}: verified in a fresh pipeline; samples change by {change:.1f} of 255."
        return Verification(None, line, {"change": round(change, 3)})
    return Verification(
        problem, f"{run.adapter}: {problem}. Train longer or with a higher learning rate."
    )


def regenerate(subject: Subject, adapter: Path, device: torch.device) -> list[Image.Image]:
    """Generate the previews with a fresh pipeline and a saved adapter; the base leaves the GPU."""
    with at_rest(subject.pipe) if subject.sharding is None else contextlib.nullcontext():
        pipe = fresh_pipe(subject, device)
        with adapter_on(pipe, adapter):
            shard_unet(subject, pipe, device)
            return previews_of(subject, pipe)


def _image_difference(a: Image.Image, b: Image.Image) -> float:
    """Return the mean absolute difference in 8-bit levels."""
    pixels = [np.asarray(image.convert("RGB"), dtype=np.float64) for image in (a, b)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def _difference_from_file(a: Image.Image, file: Path) -> float:
    with Image.open(file) as b:
        return _image_difference(a, b)
