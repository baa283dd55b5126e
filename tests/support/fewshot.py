"""A few-shot task of seconds: a tiny CLIP, three classes of coloured noise, scripts in process."""

from pathlib import Path

import numpy as np
from PIL import Image

from support.places import TOP
from support.trainer import Outcome, run_trainer

SHADES = {"red": (200, 40, 40), "green": (40, 180, 60), "navy_blue": (30, 40, 150)}


def coloured_folder(folder: Path, of_each: int = 12, size: tuple[int, int] = (36, 40)) -> Path:
    """A folder of three classes; each picture noise around its class's colour, all of one size."""
    random = np.random.default_rng(0)
    for name, shade in SHADES.items():
        (folder / name).mkdir(parents=True)
        for number in range(of_each):
            pixels = np.array(shade) + random.normal(0, 30, (*size, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{number}.png")
    return folder


def flags_for(base: Path, pictures: Path, runs: Path, **changes: object) -> list[str]:
    """A command line for a run of a second or two; None drops a flag, True or False is a switch."""
    flags: dict[str, object] = {
        "model": base, "dataset": pictures, "output_dir": runs, "name": "tiny", "shots": 4,
        "method": "nora,clip-lora", "steps": 6, "batch_size": 6, "log_every": 1,
        "checkpoint_every": 2, "vision.rank": 2, "text.rank": 2, "vision.learning_rate": 0.05,
        "text.learning_rate": 0.05,
    }  # fmt: skip
    if "nora" in str(changes.get("method", "nora")):
        flags |= {"vision.outer_rank": 8, "text.outer_rank": 8}
    words: list[str] = []
    for name, value in (flags | changes).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            part, dot, name = flag.rpartition(".")
            words.append(f"--{flag}" if value else f"--{part}{dot}no-{name}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def run_script(name: str, *arguments: str) -> Outcome:
    """Run a script here, as `python training/NAME` would."""
    return run_trainer(*arguments, script=TOP / name)


def train(*arguments: str) -> Outcome:
    return run_script("training/clip_fewshot.py", *arguments)
