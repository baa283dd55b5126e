"""The pictures in `samples/` of a run: which prompt after which step."""

import re
from pathlib import Path

from nora_studio.runs.runs import Run

_SAMPLE = re.compile(r"(?:base|step-(\d{6,}))-(\d{2,})\.png")


def samples_of(run: Run) -> dict[int, dict[int, Path]]:
    """A run's samples by step and prompt number, both in order; step 0 is the base."""
    found: dict[int, dict[int, Path]] = {}
    for file in run.samples.glob("*.png"):
        match = _SAMPLE.fullmatch(file.name)
        if match and file.is_file():
            found.setdefault(int(match[1] or 0), {})[int(match[2])] = file
    return {step: dict(sorted(found[step].items())) for step in sorted(found)}


def latest_sample(run: Run) -> Path | None:
    """A run's latest picture of its first prompt; None before it has drawn."""
    samples = samples_of(run)
    return next(iter(samples[max(samples)].values()), None) if samples else None
