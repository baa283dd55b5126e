"""The trainer as a person starts it, in this process or another, at a size for tests."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from nora_studio.options.config import DreamboothOptions, PartOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.runs.runs import Run
from nora_studio.tasks.dreambooth.base import load_base_of
from nora_studio.tasks.dreambooth.batches import PhotoBatches
from nora_studio.tasks.dreambooth.photo_set import PhotoSet
from nora_studio.tasks.dreambooth.prior import PriorBatches
from nora_studio.tasks.dreambooth.settings import DreamboothSettings, resolve
from nora_studio.tasks.dreambooth.setup import prepare
from nora_studio.tasks.dreambooth.subject import Subject
from support.places import TOP
from support.tiny import RARE_TOKEN

SCRIPT = TOP / "training" / "dreambooth_nora.py"
STEPS = 6
PROMPT = "a photo of a [V] mug"


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines of stderr that tell an error."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def tiny_arguments(
    base: Path, photos: Path, runs: Path, method: str = "nora", changes: dict | None = None
) -> list[str]:
    """A command line for a run of seconds; `changes` overrides flags, None drops one."""
    flags: dict[str, object] = {
        "instance-dir": photos,
        "prompt": PROMPT,
        "model": base,
        "method": method,
        "output-dir": runs,
        "trigger": RARE_TOKEN,
        "steps": STEPS,
        "batch-size": 2,
        "warmup-steps": 1,
        "sample-every": 3,
        "sample-steps": 2,
        "log-every": 2,
        "checkpoint-every": 2,
        "evaluate-every": 0,
    }
    rates = {"unet": 0.05, "text-encoder": 0.01, "text-encoder-2": 0.01}
    for part, rate in rates.items():
        flags |= {f"{part}.rank": 2, f"{part}.learning-rate": rate}
        if "nora" in method:
            flags[f"{part}.outer-rank"] = 8
    flags |= changes or {}
    return [
        word
        for name, value in flags.items()
        if value is not None
        for word in ((f"--{name}",) if value is True else (f"--{name}", str(value)))
    ]


def run_trainer(*arguments: str, script: Path = SCRIPT) -> Outcome:
    """Run the script here, as `python training/dreambooth_nora.py` would."""
    AcceleratorState._reset_state(True)  # One process trains once, outside of tests.
    out, err = io.StringIO(), io.StringIO()
    before, ctrl_c = sys.argv, signal.getsignal(signal.SIGINT)
    sys.argv = [str(script), *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        assert isinstance(end.code, int)
        return Outcome(end.code, out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
        signal.signal(signal.SIGINT, ctrl_c)
        AcceleratorState._reset_state(True)
    raise AssertionError("the script ended without an exit status")


def start_trainer(*arguments: str) -> subprocess.Popen:
    """Start the script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tiny_options(base: Path, photos: Path, runs: Path, **changes) -> DreamboothOptions:
    """Options of the same small size, for what is called without the script."""
    nested = "nora" in changes.get("method", "nora")
    part = PartOptions(rank=2, outer_rank=8 if nested else None, learning_rate=0.05)
    options: dict = {
        "instance_dir": photos,
        "prompt": PROMPT,
        "model": str(base),
        "method": "nora,lora",
        "output_dir": runs,
        "trigger": RARE_TOKEN,
        "steps": STEPS,
        "batch_size": 2,
        "warmup_steps": 0,
        "sample_every": 0,
        "sample_steps": 2,
        "unet": part,
        "text_encoder": part,
        "text_encoder_2": part,
    }
    return with_recommended(DreamboothOptions(**(options | changes)))


def tiny_settings(base: Path, photos: Path, runs: Path, **changes) -> DreamboothSettings:
    """The same options, resolved."""
    return resolve(tiny_options(base, photos, runs, **changes))


def photo_set(options: DreamboothOptions) -> PhotoSet:
    """The photos of a run, found and looked through as the script does it."""
    settings = resolve(options)
    return PhotoSet.find(settings.photos, settings.subject.prompt, settings.base.resolution)


def tiny_subject(options: DreamboothOptions) -> tuple[Subject, PhotoBatches | PriorBatches]:
    """What the script prepares before it builds its training states."""
    AcceleratorState._reset_state(True)
    settings = resolve(options)
    pipe = load_base_of(settings.base, torch.float32, torch.device("cpu"))
    prepared = prepare(settings, pipe, photo_set(options), lambda line: None)
    return prepared.subject, prepared.batches


UNET_ONLY = {"text-encoder.no-train": True, "text-encoder-2.no-train": True}


METHODS = ("nora", "lora")


WEIGHTS = "adapter_model.safetensors"


def only_unet(changes: dict | None = None) -> dict:
    """Flags that leave both text encoders out."""
    dropped = {
        f"{part}.{name}": None
        for part in ("text-encoder", "text-encoder-2")
        for name in ("rank", "outer-rank", "learning-rate")
    }
    return dropped | UNET_ONLY | (changes or {})


def tensors_of(folder: Path) -> dict[str, bytes]:
    """Every safetensors file below a folder, byte for byte."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*.safetensors"))
    }


def ask_to_stop(runs: list[Run], number: signal.Signals, pid: int) -> threading.Thread:
    """Send a signal as soon as every run has written its first line."""

    def watch() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and not all(run.read_log() for run in runs):
            time.sleep(0.005)
        os.kill(pid, number)

    watcher = threading.Thread(target=watch)
    watcher.start()
    return watcher
