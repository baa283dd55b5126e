"""Measure a run before it starts: real steps, a sample, a checkpoint and a verification.

Up to the first step this is the trainer's own code, in a temporary folder; the encoded photos are
cached for the run. Only the class images are not generated: photos replace them in batches,
generating with two steps measures the memory, and the time is estimated from the sample's.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from typing_extensions import override

from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions
from nora_studio.runs.atomic import temporary_path, tidy, write_text
from nora_studio.runs.disk_errors import writing
from nora_studio.runs.runs import Run
from nora_studio.runs.stop import StopRequest
from nora_studio.sdxl.generate import generate_images
from nora_studio.sdxl.models import all_on_device
from nora_studio.tasks.dreambooth.batches import PhotoBatches
from nora_studio.tasks.dreambooth.preflight_report import Preflight, PreflightRequest, format_report
from nora_studio.tasks.dreambooth.prior import GUIDANCE as CLASS_GUIDANCE
from nora_studio.tasks.dreambooth.prior import PriorBatches, pictures_in
from nora_studio.tasks.dreambooth.settings import DreamboothSettings
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.tasks.dreambooth.verification import regenerate
from nora_studio.trainer.loop import train
from nora_studio.trainer.out_of_memory import OutOfMemory
from nora_studio.trainer.peak_memory import GIB, limit_memory, peak_memory
from nora_studio.trainer.saving import save_checkpoints
from nora_studio.trainer.train_state import Batch, BatchSource, TrainState

WARM_UP_STEPS = 1
TIMED_STEPS = 3
MEMORY_STEPS = 2
"""Inference steps of generating class images, to measure its memory."""


@contextlib.contextmanager
def preflight_folder(options: DreamboothOptions) -> Iterator[DreamboothOptions]:
    """Yield the options with a temporary output folder, on the disk where the runs would go.

    Raises:
        StudioError: the run cannot be measured, or its name is taken.
    """
    if options.resume:
        raise StudioError(
            "--preflight measures a run before it starts, so it cannot be combined with --resume. "
            "Leave one of them out."
        )
    check_one_process("preflight")
    for method in options.methods:
        Run(options.output_dir / f"{options.run_name}-{method}").check_new()
    if options.fit is not None:
        limit_memory(options.fit)
    # `tidy` removes folders of such names that killed preflights have left.
    folder = temporary_path(_nearest_existing_folder(options.output_dir) / "preflight")
    tidy(folder.parent, signed=True)
    with writing("a preflight", folder):
        folder.mkdir()
    try:
        try:
            yield replace(options, output_dir=folder)
        except OutOfMemory:
            _write(options.preflight_out, {"out_of_memory": True})
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_one_process(flag: str) -> None:
    """Refuse to measure a training of several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise StudioError(
            f"--{flag}: measures one process; start it without `accelerate launch`, with the "
            "batch that one GPU would have."
        )


class LargestImageBatches(BatchSource):
    """A source of only those batches with the largest images, which notes when each was taken."""

    def __init__(self, batches: PhotoBatches | PriorBatches, device: torch.device) -> None:
        own = batches.subject if isinstance(batches, PriorBatches) else batches
        self.batches, self.device = batches, device
        shapes = [cache.mean.shape[-2:] for cache in own.caches]
        self.shape = max(shapes, key=lambda shape: shape[0] * shape[1])
        self.asked: list[float] = []

    @override
    def next(self) -> Batch:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.asked.append(time.monotonic())
        while True:  # Every size fills a batch after some epochs.
            batch = self.batches.next()
            if batch["latents"].shape[-2:] == self.shape:
                return batch

    @override
    def state(self) -> dict[str, torch.Tensor]:
        return self.batches.state()

    @override
    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.batches.restore(state)


def run_preflight(
    asked: PreflightRequest,
    subject: Subject,
    batches: PhotoBatches | PriorBatches,
    states: list[TrainState],
    sample: Callable[[TrainState, int], None],
    evaluate: Callable[[TrainState], dict[str, float]],
) -> int:
    """Measure a run that was built in a preflight's folder; print a report, and write it as JSON.

    Returns:
        The exit status: 0, or 128 + n if signal n stopped it.
    """
    device, plan = states[0].accelerator.device, asked.settings.trainer.plan
    before = time.time() - psutil.Process().create_time()
    largest = LargestImageBatches(batches, device)
    # The last step only marks the end of the one before; it also saves a checkpoint.
    steps = WARM_UP_STEPS + TIMED_STEPS + 1
    never = {"sample_every": 0, "evaluate_every": 0}
    short = replace(plan, steps=steps, log_every=steps, checkpoint_every=steps, **never)
    with StopRequest() as stop:
        if not train(states, largest, short, stop, sample, evaluate) and stop.signal is not None:
            return 128 + stop.signal
    step = (largest.asked[-1] - largest.asked[WARM_UP_STEPS]) / TIMED_STEPS
    checkpoint = _seconds(device, lambda: save_checkpoints(states, largest, steps, 1))
    folders = [state.run.checkpoints()[steps] for state in states]
    measurement = 0.0
    if plan.evaluate_every:
        measurement = _seconds(device, lambda: [evaluate(state) for state in states])
    missing = _class_pictures_missing(asked.settings)
    if missing:
        _try_class_pictures(subject, missing)
    drawing = _seconds(device, lambda: sample(states[0], steps))
    proof = _seconds(device, lambda: regenerate(subject, folders[0], device))
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*.*"))
    peak = peak_memory(device)
    height, width = (side * subject.pipe.vae_scale_factor for side in largest.shape)
    found = Preflight(
        peak=peak,
        pixels=(height, width),
        seconds_before=before,
        seconds_per_step=step,
        seconds_per_sample=drawing,
        seconds_per_checkpoint=checkpoint,
        seconds_per_measurement=measurement,
        seconds_per_proof=proof,
        class_pictures=missing,
        # A new checkpoint is written before an old one is removed; an adapter is not larger.
        disk_needed_gib=size * (plan.keep_checkpoints + 2) / GIB,
        disk_free_gib=shutil.disk_usage(folders[0]).free / GIB,
        fits=None if asked.limit_gib is None else peak.needed_gib <= asked.limit_gib,
    )
    minutes = found.minutes(asked.settings)
    _write(asked.out, asdict(found) | {"minutes": minutes, "out_of_memory": False})
    for line in format_report(found, asked):
        print(line)
    return 0


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds that a function takes, including work on the device."""
    began = time.monotonic()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began


def _class_pictures_missing(settings: DreamboothSettings) -> int:
    prior = settings.prior
    if prior.weight == 0:
        return 0
    there = len(pictures_in(prior.folder)) if prior.folder.is_dir() else 0
    return max(0, prior.pictures - there)


def _try_class_pictures(subject: Subject, count: int) -> None:
    """Generate a full batch of class images with few steps, to measure its memory."""
    seeds = range(min(count, 32))
    with all_on_device(subject.pipe):
        pictures = generate_images(
            subject.pipe,
            [subject.settings.subject.prompt],
            seeds,
            steps=MEMORY_STEPS,
            guidance=CLASS_GUIDANCE,
            size=subject.size,
        )
        next(iter(pictures))  # Generates the whole first batch.


def _write(out: Path | None, facts: dict[str, Any]) -> None:
    if out is None:
        return
    try:
        write_text(out, json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise StudioError(f"--preflight-out: {out} cannot be written: {error.strerror}.") from error


def _nearest_existing_folder(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    folder = folder.expanduser().resolve()
    return next(place for place in (folder, *folder.parents) if place.is_dir())
