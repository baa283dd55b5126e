"""Make a full-size SDXL with random weights, train on it, and report speed, memory and sizes.

    python evaluation/full_size.py --out runs/full-size --photos photos/my-mug

The configurations, the file layout and CLIP's vocabulary are the real ones; only the weights are
random. So the images mean nothing, but step time, memory, start-up time and file sizes are real.
Needs about 40 GiB of GPU memory at batch size 4 with 1024-pixel images, and 7 GiB of disk.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from nora_studio.options.command_line import parse_command
from nora_studio.runs.child_processes import stop_with_parent
from nora_studio.runs.entry import run_entry
from nora_studio.runs.runs import Run
from nora_studio.runs.scripts import TRAIN, as_flags, script_path
from nora_studio.sdxl.random_weights import build_random_sdxl


@dataclass(frozen=True)
class FullSizeOptions:
    """Train on a full-size SDXL with random weights and report what it costs."""

    photos: Path
    """Folder of photos."""
    out: Path
    """Folder for the model and the runs."""
    steps: int = 30
    """Training steps."""
    batch_size: int = 4
    """Photos per step."""
    method: str = "nora,lora"
    """Methods to train, as the trainer's --method."""
    flags: tuple[str, ...] = ()
    """Further options of the trainer, such as "outer=randomized"."""


def main() -> int:
    """Build the model, train on it, print the figures, and return the trainer's exit status."""
    options = parse_command(FullSizeOptions, description=__doc__)
    model = options.out / "sdxl-random"
    if not (model / "model_index.json").is_file():
        began = time.monotonic()
        build_random_sdxl(model)
        print(f"Built {model} in {time.monotonic() - began:.0f} s")
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1",
        str(script_path(TRAIN)),
        "--model", str(model),
        "--instance-dir", str(options.photos),
        "--prompt", "a photo of a [V] mug",
        "--method", options.method,
        "--name", "full-size",
        "--output-dir", str(options.out / "runs"),
        "--steps", str(options.steps),
        "--batch-size", str(options.batch_size),
        "--sample-every", "0",
        *as_flags(options.flags),
    ]  # fmt: skip
    began, start = time.monotonic(), time.time()
    status = subprocess.call(command, preexec_fn=stop_with_parent())
    print(f"Whole command: {time.monotonic() - began:.1f} s, status {status}")
    for method in options.method.split(","):
        run = Run(options.out / "runs" / f"full-size-{method}")
        if run.adapter.is_dir():
            report(run, start)
    return status


def report(run: Run, start: float) -> None:
    """Print one run's figures; a step's time is that of all twins together."""
    log = [row for row in run.read_log() if "loss" in row]
    warm = log[1:] or log
    size = sum(file.stat().st_size for file in run.adapter.rglob("*.safetensors"))
    card = json.loads((run.adapter / "card.json").read_text(encoding="utf-8"))
    figures = {
        "run": run.folder.name,
        "parameters": card["parameters"],
        "seconds_per_step_all_twins": min(row["seconds_per_step"] for row in warm),
        "peak_gib": max(row["memory_gib"] for row in log),
        "startup_seconds": round((run.folder / "config.toml").stat().st_mtime - start, 1),
        "adapter_mib": round(size / 2**20, 1),
        "loss": [row["loss"] for row in log],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(run_entry(main))
