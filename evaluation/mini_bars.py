"""Measure the embedded miniature SDXL against its bars, and rewrite its card.

    python evaluation/mini_bars.py --assets assets

500 prompts take about half a minute on a GPU and 20 minutes on two CPU cores; `--prompts 40`
gives a first impression. Prints one line a bar, writes bars.json and a grid of pictures.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import StableDiffusionXLPipeline

from nora_studio.errors import StudioError
from nora_studio.pretrain import bars, card, export, progress


@dataclass(frozen=True)
class Settings:
    assets: Path = Path("assets")
    """Folder of mini-sdxl/ and mini-clip/."""
    report: Path = Path("runs/mini-bars")
    """Folder for the grid."""
    prompts: int = 500
    """How many prompts to draw."""
    steps: int = 25
    """Sampling steps a picture."""
    seed: int = 1
    """Chooses prompts and starting noise."""
    batch: int = 10
    """Pictures drawn together."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to draw."""


def main(settings: Settings) -> bool:
    folder = settings.assets / export.PIPELINE
    if not (folder / "model_index.json").is_file():
        raise StudioError(f"Expected a pipeline in {folder}; train one with pretrain_mini.py.")
    clock = progress.Progress(1e6, time.time())
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.to(settings.device).set_progress_bar_config(disable=True)
    results = bars.measure(
        pipeline,
        settings.assets / export.SCORER,
        settings.device,
        settings.prompts,
        settings.batch,
        settings.report / "grid.png",
        settings.steps,
        settings.seed,
        clock,
    )
    progress.write_json(folder / card.RESULTS, results)
    for name, bar in bars.BARS.items():
        verdict = "pass" if results["passed"][name] else "FAIL"
        ceiling = results["ceiling"].get(name)
        print(f"{verdict}  {name} {results['drawn'][name]} (bar {bar}, ceiling {ceiling})")
    if (folder / card.LOG).is_file():
        print(f"wrote {card.write_card(settings.assets)}")
    return all(results["passed"].values())


if __name__ == "__main__":
    try:
        passed = main(tyro.cli(Settings, description=__doc__))
    except StudioError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if passed else 1)
