"""The wall, a grid of a run's samples: a row for each step, a column for each prompt."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps

from nora_studio.photos.opening import open_image
from nora_studio.runs.atomic import write_bytes
from nora_studio.runs.curves import thinned
from nora_studio.runs.runs import Run
from nora_studio.runs.sample_files import samples_of
from nora_studio.scoring.grid import labelled_grid
from nora_studio.sdxl.recipes import read_recipe

WALL, TWINS_WALL = "wall.png", "twins.png"
"""Files in `samples/` of a run: its own wall, and that of all twins, side by side by prompt."""
MOST_ROWS = 12
"""Maximum number of steps shown, evenly spaced and including the last."""
WIDTH = 1600
"""Width of a row in pixels; each image has between `SMALLEST` and `LARGEST`."""
SMALLEST, LARGEST = 96, 256


def write_walls(runs: Mapping[str, Run]) -> None:
    """Write each run's wall from its samples; for several runs, also that of all twins.

    Args:
        runs: Runs by their methods' names.
    """
    samples = {label: samples_of(run) for label, run in runs.items()}
    show = cache(_picture)  # A twin's images are on two walls.
    for label, run in runs.items():
        if samples[label]:
            _write_wall({label: samples[label]}, show, [run.samples / WALL])
    if len(runs) > 1 and all(samples.values()):
        _write_wall(samples, show, [run.samples / TWINS_WALL for run in runs.values()])


def _write_wall(
    samples: Mapping[str, dict[int, dict[int, Path]]],
    show: Callable[[Path], Image.Image],
    files: list[Path],
) -> None:
    """Write one wall of some runs' samples into each of some files."""
    every = list(samples.values())
    numbers = sorted({number for steps in every for row in steps.values() for number in row})
    prompts = [_prompt(every, number) for number in numbers]
    shown = thinned(sorted({step for steps in every for step in steps if step}), MOST_ROWS)
    steps = [0, *shown] if any(0 in own for own in every) else shown
    tile = max(SMALLEST, min(LARGEST, WIDTH // (len(numbers) * len(every))))
    rows = [
        [
            show(own[step][number]) if number in own.get(step, {}) else None
            for number in numbers
            for own in every
        ]
        for step in steps
    ]
    labels = [f"step {step:,}" if step else "base" for step in steps]
    together = len(every) > 1
    labelled_grid(
        rows,
        labels,
        list(samples) * len(numbers) if together else prompts,
        files[0],
        tile,
        groups=prompts if together else (),
        lines=2 if together else 3,
        label_share=0.5,
    )
    for file in files[1:]:
        write_bytes(file, files[0].read_bytes())


def _prompt(every: list[dict[int, dict[int, Path]]], number: int) -> str:
    """Read a column's prompt from its first image."""
    files = (row[number] for steps in every for row in steps.values() if number in row)
    return read_recipe(next(files)).prompt


def _picture(file: Path) -> Image.Image:
    """Load a sample at the largest size that a wall shows, so that many fit in memory."""
    with open_image(file) as picture:
        side = (LARGEST, LARGEST)
        return ImageOps.fit(picture.convert("RGB"), side, Image.Resampling.LANCZOS)
