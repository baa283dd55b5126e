"""Options of the pretraining run."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """Pretrain the miniature models."""

    out: Path = Path("assets")
    """Folder for mini-sdxl/ and mini-clip/."""
    report: Path = Path("runs/pretrain")
    """Folder for grids and logs."""
    pack: bool = False
    """Also pack the results into the report folder, as tars below 16 MiB."""
    stage: Literal["all", "encoders", "unet"] = "all"
    """What to train; the UNet needs the encoders."""
    init: Path | None = None
    """Results of an earlier encoders stage (folders or tars). Default: those in `out`."""
    init_unet: Path | None = None
    """Continue from the UNet of these results (folders or tars)."""
    pictures: int = 160_000
    """Number of pictures; the encoders stage holds them all, 196,608 bytes each."""
    captions: int = 3
    """Partial captions per picture; one more caption names every detail."""
    seed: int = 0
    """Seed of the pictures, captions, initial weights and batches."""
    vae_seconds: float = 170.0
    """Training time of the VAE; 0 uses the one in `out`."""
    clip_seconds: float = 200.0
    """Training time of the text encoders and the scoring CLIP."""
    unet_seconds: float = 430.0
    """Training time of the UNet."""
    vae_batch: int = 96
    """Crops per step."""
    clip_batch: int = 1024
    """Pictures per step, each contrasted with all others."""
    unet_batch: int = 384
    """Pictures per step."""
    bar_prompts: int = 500
    """Prompts to measure after the UNet, if time is left; 0 measures none."""
    device: str = "cuda"
    """Device to train on."""
    compile: bool = True
    """Compile on a GPU."""
    deadline_seconds: float = 1e6
    """Every stage finishes and saves within this many seconds of `started_at`."""
    started_at: float = field(default_factory=time.time)
    """Start of the clock, in seconds since 1970."""
