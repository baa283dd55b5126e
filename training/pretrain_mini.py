"""Pretrain the embedded miniature SDXL and its scoring CLIP from scratch on the toy world.

    python training/pretrain_mini.py --out assets

Takes about 20 minutes and 60 GiB on one H100 or H200: `--stage encoders` (VAE, then three text
towers against one image tower), then `--stage unet`; each alone fits in 10 minutes. On a CPU it
only smokes: `--device cpu --pictures 64 --vae-seconds 5 --clip-seconds 5 --unet-seconds 5
--vae-batch 4 --clip-batch 8 --unet-batch 4 --bar-prompts 4`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import diffusers
import torch
import transformers
import tyro
from diffusers import AutoencoderKL, UNet2DConditionModel

from nora_studio.errors import StudioError
from nora_studio.pretrain import (
    architecture,
    bars,
    captions,
    card,
    compilation,
    contrastive,
    denoiser,
    export,
    pictures,
    progress,
    tokenizer,
    vae,
)


@dataclass(frozen=True)
class Settings:
    out: Path = Path("assets")
    """Folder for mini-sdxl/ and mini-clip/."""
    report: Path = Path("runs/pretrain")
    """Folder for grids and logs."""
    pack: bool = False
    """Also put the results into the report folder, as tars below 16 MiB."""
    stage: Literal["all", "encoders", "unet"] = "all"
    """What to train; the UNet needs the encoders."""
    init: Path | None = None
    """Results of an earlier encoders stage (folders or tars); default: those in `out`."""
    init_unet: Path | None = None
    """Go on from the UNet of these results (folders or tars)."""
    pictures: int = 160_000
    """Pictures drawn; the encoders stage holds them all, 196,608 bytes each."""
    captions: int = 3
    """Captions a picture that leave things out; one more names everything."""
    seed: int = 0
    vae_seconds: float = 170.0
    clip_seconds: float = 200.0
    unet_seconds: float = 430.0
    vae_batch: int = 96
    clip_batch: int = 1024
    unet_batch: int = 384
    bar_prompts: int = 500
    """Prompts measured after the UNet, if time is left; 0 measures nothing."""
    device: str = "cuda"
    compile: bool = True
    """Compile on a GPU."""
    deadline_seconds: float = 1e6
    """Every stage finishes and saves within this many seconds of `started_at`."""
    started_at: float = field(default_factory=time.time)
    """When the clock started, in seconds since 1970."""


def main(settings: Settings) -> None:
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    clock = progress.Progress(settings.deadline_seconds, settings.started_at)
    clock.say(f"{settings.stage} on {settings.device}, torch {torch.__version__}")
    if settings.init is not None:
        export.bring(settings.init, settings.out)
    log = settings.out / export.PIPELINE / card.LOG
    if settings.stage == "unet" and log.is_file():
        clock.log.update(json.loads(log.read_text(encoding="utf-8")))
    texts = None
    if settings.stage in ("all", "encoders"):
        texts = train_encoders(settings, clock)
    if settings.stage in ("all", "unet"):
        train_unet(settings, clock, texts)


def train_encoders(settings: Settings, clock: progress.Progress) -> captions.CaptionIds:
    warm_vae = start_warm_up(settings, vae.warm_up_vae, settings.vae_batch)
    folder = settings.out / export.PIPELINE / "tokenizer"
    words = tokenizer.build_tokenizer(folder)
    clock.say(f"tokenizer of {len(words)} tokens")
    writing = captions.start_captions(settings.pictures, settings.seed, folder, settings.captions)
    compilation.set_precision(settings.seed)  # from here on CUDA is in use: no more forks
    drawn = pictures.draw_pictures(settings.pictures, settings.seed, settings.device, clock)
    clock.say(f"drew {len(drawn)} pictures on {progress.device_name(settings.device)}")
    release_memory(settings.device)  # drawing took much; the warm-up needs some
    warm_clip = start_warm_up(settings, contrastive.warm_up_clip, settings.clip_batch)
    autoencoder = obtain_vae(settings, clock, drawn, warm_vae)

    texts = writing.collect(settings.device)
    clock.say("captions are written")
    first, second = architecture.build_text_encoders(words)
    towers = contrastive.Towers(architecture.build_clip(len(words)), first, second)
    contrastive.train_contrastive(
        towers,
        drawn,
        texts,
        autoencoder,
        settings.device,
        clock,
        settings.clip_seconds,
        25,
        settings.clip_batch,
        warm_clip,
    )
    export.export_encoders(settings.out, words, first, second, towers.clip)
    finish(settings, clock, "encoders", [export.PIPELINE, export.SCORER])
    return texts


def obtain_vae(
    settings: Settings,
    clock: progress.Progress,
    drawn: pictures.Pictures,
    warm_up: BaseProcess | None,
) -> AutoencoderKL:
    """Train the VAE and save it at once, or load it where no time is given to it."""
    if settings.vae_seconds == 0:
        return export.load_vae(settings.out, settings.device)
    autoencoder = architecture.build_vae()
    clip_share = settings.clip_seconds / (settings.vae_seconds + settings.clip_seconds)
    vae.train_vae(
        autoencoder,
        drawn,
        settings.device,
        clock,
        settings.vae_seconds,
        45 + clip_share * max(0.0, clock.left() - 45),  # the contrastive stage's part
        settings.vae_batch,
        warm_up,
    )
    export.export_vae(settings.out, autoencoder)
    finish(settings, clock, "vae", [f"{export.PIPELINE}/vae"])
    shown = drawn.pixels[:8]
    again = vae.decode_latents(autoencoder, vae.encode_latents(autoencoder, shown))
    pictures.save_grid(torch.cat([shown / 255, again]), 8, settings.report / "vae.png")
    return autoencoder


def train_unet(
    settings: Settings,
    clock: progress.Progress,
    texts: captions.CaptionIds | None,  # None: write them first
) -> None:
    warm_unet = start_warm_up(settings, denoiser.warm_up_unet, settings.unet_batch)
    folder = settings.out / export.PIPELINE / "tokenizer"
    writing = None
    if texts is None:
        writing = captions.start_captions(
            settings.pictures, settings.seed, folder, settings.captions
        )
    compilation.set_precision(settings.seed)
    words, first, second, autoencoder = export.load_encoders(settings.out, settings.device)
    unet = build_or_load_unet(settings)
    encoded = denoiser.encode_pictures(
        settings.pictures, settings.seed, autoencoder, settings.device, clock
    )
    clock.say(f"latents are encoded on {progress.device_name(settings.device)}")
    texts = writing.collect(settings.device) if writing else texts
    assert texts is not None
    data = denoiser.encode_captions(texts, words, first, second, *encoded)
    clock.say("captions are encoded")
    release_memory(settings.device)

    def save(average: UNet2DConditionModel) -> None:
        export.export_unet(settings.out, average)
        parts = ["unet", "scheduler", "model_index.json", card.LOG, card.RESULTS]
        finish(settings, clock, "unet", [f"{export.PIPELINE}/{part}" for part in parts])

    measuring_seconds = 60 if settings.bar_prompts else 15
    average = denoiser.train_denoiser(
        unet,
        data,
        settings.device,
        clock,
        settings.unet_seconds,
        measuring_seconds,
        settings.unet_batch,
        settings.init_unet is not None,
        warm_unet,
        save,
    )
    save(average)
    if settings.bar_prompts and clock.left() > 30:
        pipeline = architecture.build_pipeline(words, first, second, autoencoder, average)
        results = bars.measure(
            pipeline,
            settings.out / export.SCORER,
            settings.device,
            settings.bar_prompts,
            min(100, settings.bar_prompts),
            settings.report / "grid_final.png",
            progress=clock,
        )
        clock.say(f"drawn {results['drawn']}; ceiling {results['ceiling']}")
        progress.write_json(settings.out / export.PIPELINE / card.RESULTS, results)
        progress.write_json(settings.report / card.RESULTS, results)
        save(average)
        clock.say(f"wrote {card.write_card(settings.out)}")


def build_or_load_unet(settings: Settings) -> UNet2DConditionModel:
    if settings.init_unet is None:
        return architecture.build_unet()
    with tempfile.TemporaryDirectory() as folder:
        export.bring(settings.init_unet, Path(folder))
        return UNet2DConditionModel.from_pretrained(
            Path(folder) / export.PIPELINE / "unet", dtype=torch.float32
        )


def start_warm_up(
    settings: Settings, warm_up: Callable[[int], None], batch: int
) -> BaseProcess | None:
    if not settings.compile or torch.device(settings.device).type != "cuda":
        return None
    return compilation.start_warm_up(warm_up, batch)


def release_memory(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def finish(settings: Settings, clock: progress.Progress, stage: str, names: list[str]) -> None:
    """Log the run beside the model, and pack what the stage made."""
    is_cuda = torch.device(settings.device).type == "cuda"
    clock.note(
        f"{stage}_run",
        pictures=settings.pictures,
        seed=settings.seed,
        total_seconds=round(clock.seconds(), 1),
        device=progress.device_name(settings.device),
        torch=torch.__version__,
        peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 1) if is_cuda else None,
        settings={k: str(v) for k, v in asdict(settings).items()},
    )
    clock.write(settings.out / export.PIPELINE / card.LOG)
    clock.write(settings.report / card.LOG)
    if settings.pack:
        export.pack(settings.out, names, settings.report, stage)
    clock.say(f"saved the {stage} stage")


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings, description=__doc__))
    except StudioError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
