"""The images in `samples/` of a run, by step and prompt."""

import re
from pathlib import Path

from nora_studio.runs.runs import Run

_SAMPLE = re.compile(r"(?:base|step-(\d{6,}))-(\d{2,})\.png")


def samples_of(run: Run) -> dict[int, dict[int, Path]]:
    """Return a run's samples by step and prompt number, both in order; step 0 is the base."""
    found: dict[int, dict[int, Path]] = {}
    for file in run.samples.glob("*.png"):
        match = _SAMPLE.fullmatch(file.name)
        if match and file.is_file():
            found.setdefault(int(match[1] or 0), {})[int(match[2])] = file
    return {step: dict(sorted(found[step].items())) for step in sorted(found)}


def latest_sample(run: Run) -> Path | None:
    """Return a run's latest sample of its first prompt; None if it has no samples."""
    samples = samples_of(run)
    return next(iter(samples[max(samples)].values()), None) if samples else None
