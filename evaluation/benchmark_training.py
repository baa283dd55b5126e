"""Time the trainer's step on a full-size SDXL with random weights, and print ratios.

    python evaluation/benchmark_training.py --out runs/speed

Builds the model once (7 GiB) and random pictures to train on. Each case is prepared as the trainer
prepares it and takes its real steps; "limit" is the frozen UNet's own forward and backward pass as
a CUDA graph, which no training can beat. With `--script`, diffusers' train_dreambooth_lora_sdxl.py
runs unchanged on the same model and pictures. Writes `speed.json`. Needs a GPU. Exit status: 0
done, 2 bad input.
"""

import gc
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import write_text
from nora_studio.runs.child_processes import stop_with_parent
from nora_studio.runs.entry import run_entry
from nora_studio.sdxl.random_weights import build_random_sdxl
from nora_studio.tasks.dreambooth.step_timing import (
    frozen_step,
    prepared_task,
    seconds_of,
    training_step,
)

UNET = ("--text-encoder.no-train", "--text-encoder-2.no-train")
TWINS, SINGLES = "nora and lora, batch 4", ("nora, batch 4", "lora, batch 4")
PROMPT = "a photo of a [V] mug"
CASES: dict[str, tuple[str, ...]] = {
    "limit, batch 4": (*UNET, "--batch-size=4", "--method=lora"),
    "limit, batch 1": (*UNET, "--batch-size=1", "--method=lora"),
    "nora, batch 4": (*UNET, "--batch-size=4", "--method=nora"),
    "nora, batch 1": (*UNET, "--batch-size=1", "--method=nora"),
    "lora, batch 4": (*UNET, "--batch-size=4", "--method=lora"),
    "lora, batch 1": (*UNET, "--batch-size=1", "--method=lora"),
    TWINS: (*UNET, "--batch-size=4", "--method=nora,lora"),
    "nora, text encoders, batch 4": ("--batch-size=4", "--method=nora"),
    "nora, checkpointing, batch 1": (
        *UNET, "--batch-size=1", "--method=nora", "--gradient-checkpointing",
    ),
    "nora, checkpointing, batch 4": (
        *UNET, "--batch-size=4", "--method=nora", "--gradient-checkpointing",
    ),
    "nora, eager, batch 4": (*UNET, "--batch-size=4", "--method=nora", "--no-capture"),
    "nora, eager, batch 1": (*UNET, "--batch-size=1", "--method=nora", "--no-capture"),
}  # fmt: skip
RATIOS = {
    "nora, batch 4": ("limit, batch 4", 1.06),
    "nora, batch 1": ("limit, batch 1", 1.15),
    "lora, batch 4": ("limit, batch 4", 1.12),
    "nora, text encoders, batch 4": ("nora, batch 4", 1.12),
    "nora, checkpointing, batch 1": ("nora, batch 1", 1.45),
    "nora, checkpointing, batch 4": ("nora, batch 4", 1.45),
}
"""Case -> the case that it is divided by, and the largest ratio that is wanted."""
SCRIPT = """
import atexit, runpy, statistics, sys, time, accelerate
marks, clip = [], accelerate.Accelerator.clip_grad_norm_
def marked(self, *rest, **named):
    marks.append(time.perf_counter())
    return clip(self, *rest, **named)
accelerate.Accelerator.clip_grad_norm_ = marked
def say():
    steps = [later - sooner for sooner, later in zip(marks, marks[1:])][5:]
    print("MEDIAN", statistics.median(steps), flush=True)
atexit.register(say)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script that clips its gradients once a step, and prints the median second between."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Time training steps at full size."""

    out: Path = Path("runs/speed")
    """Folder for the model, the pictures and the result."""
    cases: tuple[str, ...] = ()
    """Cases to time; none: all."""
    steps: int = 20
    """Steps that are timed, after three that are not."""
    resolution: int = 1024
    """Side of the pictures, in pixels."""
    script: Path | None = None
    """diffusers' train_dreambooth_lora_sdxl.py, to be timed too."""


def main() -> int:
    """Time every case and print its ratio."""
    options = parse_command(BenchmarkOptions, description=__doc__)
    if not torch.cuda.is_available():
        raise StudioError("expected a GPU; torch sees none. Run this on a machine with one.")
    unknown = set(options.cases) - set(CASES)
    if unknown:
        raise StudioError(f"--cases: expected some of {'; '.join(CASES)}; got {unknown}.")
    model, photos = options.out / "sdxl-random", options.out / "pictures"
    if not (model / "model_index.json").is_file():
        build_random_sdxl(model)
    photos.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        side = (options.resolution, options.resolution)
        Image.effect_noise(side, 60 + number).convert("RGB").save(photos / f"{number}.png")
    found: dict[str, dict[str, float]] = {}
    for name in options.cases or CASES:
        found[name] = time_case(name, options, model, photos)
        print(f"{name:32s} {found[name]['seconds'] * 1000:8.1f} ms {ratio_of(name, found)}")
        write_text(options.out / "speed.json", json.dumps(found, indent=1) + "\n")
    for size in (4, 1) if options.script else ():
        found[f"script, batch {size}"] = own = {
            "seconds": time_script(options, model, photos, size)
        }
        ours = found.get(f"lora, batch {size}")
        than = f"{own['seconds'] / ours['seconds']:.2f} x ours" if ours else ""
        print(f"script, batch {size}: {own['seconds'] * 1000:.1f} ms {than}")
        write_text(options.out / "speed.json", json.dumps(found, indent=1) + "\n")
    return 0


def ratio_of(name: str, found: dict[str, dict[str, float]]) -> str:
    """Write a case's ratio beside the one that is wanted, if both were timed."""
    twins = [found[single]["seconds"] for single in SINGLES if single in found]
    if name == TWINS and len(twins) == len(SINGLES):
        total, wanted, than = sum(twins), 1.03, "the sum of both"
    elif name in RATIOS and RATIOS[name][0] in found:
        than, wanted = RATIOS[name]
        total = found[than]["seconds"]
    else:
        return ""
    return f"{found[name]['seconds'] / total:6.3f} x {than} (wanted: {wanted})"


def time_case(name: str, options: BenchmarkOptions, model: Path, photos: Path) -> dict[str, float]:
    """Time one case; return seconds per step, and the memory that torch holds in GiB."""
    words = [
        "--model", str(model), "--instance-dir", str(photos), "--prompt", PROMPT,
        "--resolution", str(options.resolution), "--sample-every=0", *CASES[name],
    ]  # fmt: skip
    torch.cuda.reset_peak_memory_stats()
    task = prepared_task(words)
    step = frozen_step(task) if name.startswith("limit") else training_step(task)
    found = {"seconds": seconds_of(step, options.steps)}
    found["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    del task, step
    gc.collect()
    torch.cuda.empty_cache()
    return found


def time_script(options: BenchmarkOptions, model: Path, photos: Path, batch_size: int) -> float:
    """Run diffusers' script unchanged, and return its median seconds per step."""
    command = [
        sys.executable, "-c", SCRIPT, str(options.script),
        f"--pretrained_model_name_or_path={model}", f"--instance_data_dir={photos}",
        "--instance_prompt=a photo of a zxq mug", f"--output_dir={options.out / 'script'}",
        f"--resolution={options.resolution}", f"--train_batch_size={batch_size}", "--rank=16",
        "--mixed_precision=bf16", "--max_train_steps=30", "--learning_rate=1e-4",
        "--lr_scheduler=constant", "--lr_warmup_steps=0",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=stop_with_parent()
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEDIAN")]
    if not lines:
        raise StudioError(f"--script: {options.script} failed: {done.stderr.strip()[-300:]}")
    return float(lines[0].split()[1])


if __name__ == "__main__":
    sys.exit(run_entry(main))
