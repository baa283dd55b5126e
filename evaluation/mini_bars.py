"""Measure the embedded miniature SDXL against its bars, and rewrite its card.

    python evaluation/mini_bars.py --assets assets

500 prompts take about half a minute on a GPU and 20 minutes on two CPU cores; `--prompts 40`
gives a first impression. Prints one line per bar; writes bars.json and a grid of images.
Exit status: 0 all bars met, 1 one missed, 2 bad input.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline

from nora_studio.errors import StudioError
from nora_studio.mini.pretrain import card, export, progress
from nora_studio.options.command_line import parse_command
from nora_studio.runs.entry import run_entry
from nora_studio.scoring import mini_thresholds as thresholds


@dataclass(frozen=True)
class Settings:
    """Measure the embedded miniature SDXL against its bars."""

    assets: Path = Path("assets")
    """Folder with mini-sdxl/ and mini-clip/."""
    report: Path = Path("runs/mini-bars")
    """Folder for the grid."""
    prompts: int = 500
    """Number of prompts to generate."""
    steps: int = 25
    """Denoising steps per image."""
    seed: int = 1
    """Seed of the prompts and the starting noise."""
    batch: int = 10
    """Images per batch."""
    device: str | None = None
    """Device to generate on. None: the GPU if there is one."""


def main() -> int:
    """Measure, print one line per bar, and return the exit status."""
    settings = parse_command(Settings, description=__doc__)
    folder = settings.assets / export.PIPELINE
    if not (folder / "model_index.json").is_file():
        raise StudioError(
            f"--assets: expected a diffusers pipeline in {folder}; there is none. Name another "
            "folder, or train one with training/pretrain_mini.py."
        )
    if settings.prompts < 1:
        raise StudioError(f"--prompts: expected at least 1; got {settings.prompts}.")
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True
    )
    pipeline.to(device).set_progress_bar_config(disable=True)
    results = thresholds.measure(
        pipeline,
        settings.assets / export.SCORER,
        device,
        settings.prompts,
        batch=settings.batch,
        grid=settings.report / "grid.png",
        steps=settings.steps,
        seed=settings.seed,
        progress=progress.Progress(1e6, time.time()),
    )
    progress.write_json(folder / export.RESULTS, results)
    for name, bar in thresholds.BARS.items():
        outcome = "pass" if results["passed"][name] else "FAIL"
        ceiling = results["ceiling"].get(name)
        print(f"{outcome}  {name} {results['drawn'][name]} (bar {bar}, ceiling {ceiling})")
    if (folder / export.LOG).is_file():
        print(f"wrote {card.write_card(settings.assets)}")
    return 0 if all(results["passed"].values()) else 1


if __name__ == "__main__":
    sys.exit(run_entry(main))
