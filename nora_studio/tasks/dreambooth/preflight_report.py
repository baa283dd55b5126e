"""The results of a preflight, and their report."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from nora_studio.tasks.dreambooth.prior import STEPS as CLASS_STEPS
from nora_studio.tasks.dreambooth.settings import DreamboothSettings
from nora_studio.trainer.peak_memory import Peak


@dataclass(frozen=True)
class PreflightRequest:
    """The run to measure, and the options of the preflight."""

    settings: DreamboothSettings
    """The run's settings, with its own folder and not the preflight's."""
    limit_gib: float | None
    """Memory that the run must fit in; None for no limit."""
    out: Path | None
    """JSON file for the results; None to print them only."""


@dataclass(frozen=True)
class Preflight:
    """Memory, disk space and time that a run needs, for all twins together."""

    peak: Peak
    pixels: tuple[int, int]
    """Height and width of the images of the measured steps."""
    seconds_before: float
    """Time from the start of the process to the first step: loading, encoding, base previews."""
    seconds_per_step: float
    seconds_per_sample: float
    seconds_per_checkpoint: float
    seconds_per_measurement: float
    seconds_per_proof: float
    class_pictures: int
    """Number of class images to generate."""
    disk_needed_gib: float
    disk_free_gib: float
    fits: bool | None
    """Whether the run fits into the limit; None if there is none."""

    def minutes(self, settings: DreamboothSettings) -> float:
        """Return the minutes that the run takes, from the command to the last verification."""
        trainer = settings.trainer
        plan, twins = trainer.plan, len(trainer.methods)
        steps = plan.steps
        samples = (steps - 1) // plan.sample_every if plan.sample_every else 0
        measurements = math.ceil(steps / plan.evaluate_every) if plan.evaluate_every else 0
        seconds = [
            self.seconds_before,
            self.class_pictures * self.seconds_per_sample * CLASS_STEPS / settings.previews.steps,
            steps * self.seconds_per_step,
            samples * twins * self.seconds_per_sample,
            measurements * self.seconds_per_measurement,
            math.ceil(steps / plan.checkpoint_every) * self.seconds_per_checkpoint,
            twins * (self.seconds_per_sample + self.seconds_per_proof),
        ]
        return sum(seconds) / 60


def format_report(found: Preflight, asked: PreflightRequest) -> list[str]:
    """Format the results as lines for the terminal."""
    peak, minutes = found.peak, found.minutes(asked.settings)
    batch = asked.settings.trainer.learning.batch_size
    ends = time.strftime("%H:%M", time.localtime(time.time() + 60 * minutes))
    height, width = found.pixels
    lines = [
        f"Preflight on {peak.device}, images of {width}x{height}, batches of {batch}",
        f"  memory      {peak.held_gib:.2f} GiB at the peak, {peak.needed_gib:.2f} GiB needed, "
        f"of {peak.total_gib:.1f} GiB",
        f"  a step      {found.seconds_per_step:.2f} s",
        f"  a sample    {found.seconds_per_sample:.2f} s",
        f"  checkpoint  {found.seconds_per_checkpoint:.2f} s",
        f"  disk        {found.disk_needed_gib:.2f} GiB needed, {found.disk_free_gib:.1f} GiB free",
        f"  in all      {minutes:.1f} minutes; started now, it ends at {ends}",
    ]
    if found.class_pictures:
        lines.append(f"  including   {found.class_pictures} class images to generate first")
    if peak.is_nearly_full:
        lines.append(
            "warning: almost no memory is left; if a driver then uses the machine's memory, steps "
            "become many times slower. `--fit GB` finds settings that need less."
        )
    if found.disk_needed_gib > found.disk_free_gib:
        lines.append("warning: the disk will be full. Lower --keep-checkpoints or free space.")
    if found.fits is not None:
        verdict = "fits" if found.fits else "does not fit"
        lines.append(f"It {verdict} into {asked.limit_gib:g} GiB.")
    return lines
