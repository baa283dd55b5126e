"""What a preflight measured, and how it is told."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from nora_studio.tasks.dreambooth.prior import STEPS as CLASS_STEPS
from nora_studio.tasks.dreambooth.settings import DreamboothSettings
from nora_studio.trainer.peak_memory import Peak


@dataclass(frozen=True)
class Rehearsed:
    """The run that is measured, as it was asked for."""

    settings: DreamboothSettings
    """Before the rehearsal changed its folder."""
    limit_gib: float | None
    """What it has to fit in; None: no limit was given."""
    out: Path | None
    """JSON file for what was measured; None: it is only told."""


@dataclass(frozen=True)
class Preflight:
    """What a run needs. Twins are counted together."""

    peak: Peak
    pixels: tuple[int, int]
    """Height and width of the measured step's pictures."""
    seconds_before: float
    """From the process's start to the first step: loading, encoding, the base's sample."""
    seconds_per_step: float
    seconds_per_sample: float
    seconds_per_checkpoint: float
    seconds_per_measurement: float
    seconds_per_proof: float
    class_pictures: int
    """Still to be drawn."""
    disk_needed_gib: float
    disk_free_gib: float
    fits: bool | None
    """In `fit`; None where no limit was given."""

    def minutes(self, settings: DreamboothSettings) -> float:
        """Return how long the run takes from the command to the last proof."""
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


def format_report(found: Preflight, asked: Rehearsed) -> list[str]:
    """Return what was measured, as a person reads it."""
    peak, minutes = found.peak, found.minutes(asked.settings)
    batch = asked.settings.trainer.learning.batch_size
    ends = time.strftime("%H:%M", time.localtime(time.time() + 60 * minutes))
    height, width = found.pixels
    lines = [
        f"Preflight on {peak.device}, pictures of {width}x{height}, batches of {batch}",
        f"  memory      {peak.held_gib:.2f} GiB at the peak, {peak.needed_gib:.2f} GiB needed, "
        f"of {peak.total_gib:.1f} GiB",
        f"  a step      {found.seconds_per_step:.2f} s",
        f"  a sample    {found.seconds_per_sample:.2f} s",
        f"  checkpoint  {found.seconds_per_checkpoint:.2f} s",
        f"  disk        {found.disk_needed_gib:.2f} GiB needed, {found.disk_free_gib:.1f} GiB free",
        f"  in all      {minutes:.1f} minutes; begun now, it ends at {ends}",
    ]
    if found.class_pictures:
        lines.append(f"  of these    {found.class_pictures} class pictures are to be drawn first")
    if peak.spills:
        lines.append(
            "warning: next to no memory is left; where a driver spills over into the machine's "
            "memory, steps become many times slower. `--fit GB` finds settings that save some."
        )
    if found.disk_needed_gib > found.disk_free_gib:
        lines.append("warning: the disk will be full. Lower --keep-checkpoints or make room.")
    if found.fits is not None:
        verdict = "fits" if found.fits else "does not fit"
        lines.append(f"It {verdict} into {asked.limit_gib:g} GiB.")
    return lines
