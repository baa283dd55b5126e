"""Make a full-size SDXL with random weights, train on it, and report speed, memory and sizes.

    python evaluation/full_size.py --out runs/full-size --photos photos/my-mug

The configurations, the file layout and CLIP's vocabulary are the real ones; only the weights are
random. So the images mean nothing, but step time, memory, start-up time and file sizes are real.
Needs about 40 GiB of GPU memory at batch size 4 with 1024-pixel images, and 7 GiB of disk.
"""

import gzip
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from nora_studio.options.command_line import parse_command
from nora_studio.runs.child_processes import stop_with_parent
from nora_studio.runs.entry import run_entry
from nora_studio.runs.runs import Run
from nora_studio.runs.scripts import TRAIN, as_flags, script_path
from nora_studio.sdxl.shapes import SDXL_UNET, text_config

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


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
        build(model)
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


def build(folder: Path) -> None:
    """Build the pipeline with random weights and save it in bfloat16."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        unet: Any = UNet2DConditionModel.from_config(SDXL_UNET)
        vae: Any = AutoencoderKL.from_config(VAE)
        first = CLIPTextModel(text_config(768, 12, 12, "quick_gelu"))
        second = CLIPTextModelWithProjection(text_config(1280, 32, 20, "gelu"))
    torch.set_default_dtype(torch.float32)
    tokenizer = clip_tokenizer()
    scheduler: Any = EulerDiscreteScheduler.from_config(SCHEDULER)
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)


def clip_tokenizer() -> CLIPTokenizer:
    """Build CLIP's tokenizer from the merges that come with open_clip."""
    file = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # pyright: ignore[reportArgumentType] - pairs, as the class stores them
        model_max_length=77,
    )


if __name__ == "__main__":
    sys.exit(run_entry(main))
