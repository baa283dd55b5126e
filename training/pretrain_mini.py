"""Pretrain the embedded miniature SDXL and its scoring CLIP from scratch on the toy world.

    python training/pretrain_mini.py --out assets

Two stages, about nine minutes each on an H200, where the first needs 52 GiB: `--stage encoders`
(VAE, then three text towers against one image tower), then `--stage unet`. For a smoke test on a
CPU: `--device cpu --pictures 64 --vae-seconds 5 --clip-seconds 5 --unet-seconds 5 --vae-batch 4
--clip-batch 8 --unet-batch 4 --bar-prompts 4`.
Exit status: 0 done, 2 bad input.
"""

import json
import sys
from multiprocessing.process import BaseProcess

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel

from nora_studio.errors import StudioError
from nora_studio.mini.pretrain import architecture, card, contrastive, denoiser, export, vae
from nora_studio.mini.pretrain.captions import CaptionIds, start_captions
from nora_studio.mini.pretrain.compilation import set_precision, start_warm_up
from nora_studio.mini.pretrain.devices import device_name, is_gpu, release_memory
from nora_studio.mini.pretrain.pictures import Pictures, draw_pictures
from nora_studio.mini.pretrain.progress import Progress, write_json
from nora_studio.mini.pretrain.settings import Settings
from nora_studio.mini.pretrain.tokenizer import build_tokenizer
from nora_studio.options.command_line import parse_command
from nora_studio.runs.entry import run_entry
from nora_studio.scoring import mini_thresholds as thresholds


def main() -> int:
    """Train the embedded SDXL and CLIP from the command line; return the exit status."""
    settings = parse_command(Settings, description=__doc__)
    if is_gpu(settings.device) and not torch.cuda.is_available():
        raise StudioError(f"--device: expected a GPU for {settings.device!r}; torch finds none.")
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    clock = Progress(settings.deadline_seconds, settings.started_at)
    clock.say(f"{settings.stage} on {settings.device}, torch {torch.__version__}")
    if settings.init is not None:
        export.copy_results(settings.init, settings.out)
    log = settings.out / export.PIPELINE / export.LOG
    continues = settings.stage == "unet" or settings.vae_seconds == 0
    if continues and log.is_file():
        clock.log.update(json.loads(log.read_text(encoding="utf-8")))
    texts = None
    if settings.stage in ("all", "encoders"):
        texts = train_encoders(settings, clock)
    if settings.stage in ("all", "unet"):
        train_unet(settings, clock, texts)
    return 0


def train_encoders(settings: Settings, clock: Progress) -> CaptionIds:
    """Train tokenizer, VAE, CLIP and the text encoders; return the captions' tokens."""
    device, compiles = settings.device, settings.compile
    warm_vae = start_warm_up(vae.warm_up_vae, settings.vae_batch, device, compiles)
    folder = settings.out / export.PIPELINE / "tokenizer"
    words = build_tokenizer(folder)
    clock.say(f"tokenizer of {len(words)} tokens")
    writing = start_captions(settings.pictures, settings.seed, folder, settings.captions)
    set_precision(settings.seed)  # initialises CUDA: no forks after this
    drawn = draw_pictures(settings.pictures, settings.seed, device, clock)
    clock.say(f"rendered {len(drawn)} images on {device_name(device)}")
    release_memory(device)  # the warm-up needs what rendering has used
    warm_clip = start_warm_up(contrastive.warm_up_clip, settings.clip_batch, device, compiles)
    autoencoder = obtain_vae(settings, clock, drawn, warm_vae)

    texts = writing.collect(device)
    clock.say("wrote the captions")
    first, second = architecture.build_text_encoders(words)
    towers = contrastive.Towers(architecture.build_clip(len(words)), first, second)
    contrastive.train_contrastive(
        towers,
        drawn,
        texts,
        autoencoder,
        device,
        clock,
        seconds=settings.clip_seconds,
        reserve_seconds=25,
        batch=settings.clip_batch,
        warm_up=warm_clip,
    )
    export.export_encoders(settings.out, words, first, second, towers.clip)
    export.finish_stage(settings, clock, "encoders", [export.PIPELINE, export.SCORER])
    return texts


def obtain_vae(
    settings: Settings, clock: Progress, drawn: Pictures, warm_up: BaseProcess | None
) -> AutoencoderKL:
    """Train the VAE and save it at once, or load it if it has no training time."""
    if settings.vae_seconds == 0:
        return export.load_vae(settings.out, settings.device)
    autoencoder = architecture.build_vae()
    clip_share = settings.clip_seconds / (settings.vae_seconds + settings.clip_seconds)
    vae.train_vae(
        autoencoder,
        drawn,
        settings.device,
        clock,
        seconds=settings.vae_seconds,
        reserve_seconds=45 + clip_share * max(0.0, clock.left() - 45),  # the next stage's part
        batch=settings.vae_batch,
        warm_up=warm_up,
    )
    export.export_vae(settings.out, autoencoder)
    parts = [f"{export.PIPELINE}/vae", f"{export.PIPELINE}/{export.LOG}"]
    export.finish_stage(settings, clock, "vae", parts)
    vae.show_reconstructions(autoencoder, drawn.pixels[:8], settings.report / "vae.png")
    return autoencoder


def train_unet(
    settings: Settings,
    clock: Progress,
    texts: CaptionIds | None,  # None to write them first
) -> None:
    """Train the UNet with the exported encoders, and export the pipeline."""
    count, seed, device = settings.pictures, settings.seed, settings.device
    export.check_encoders(settings.out)
    warm_unet = start_warm_up(denoiser.warm_up_unet, settings.unet_batch, device, settings.compile)
    folder = settings.out / export.PIPELINE / "tokenizer"
    writing = None if texts else start_captions(count, seed, folder, settings.captions)
    set_precision(seed)
    words, first, second, autoencoder = export.load_all_but_unet(settings.out, device)
    earlier = settings.init_unet
    unet = export.load_unet(earlier) if earlier else architecture.build_unet()
    if earlier and "denoiser" in clock.log:
        before = {name: clock.log.pop(name) for name in ("denoiser", "unet_run")}
        clock.log.setdefault("unet_before", []).append(before)
    encoded = denoiser.encode_pictures(count, seed, autoencoder, device, clock)
    clock.say(f"encoded the latents on {device_name(device)}")
    texts = writing.collect(device) if writing else texts
    assert texts is not None
    data = denoiser.encode_captions(texts, words, first, second, *encoded)
    clock.say("encoded the captions")
    release_memory(device)

    def save(average: UNet2DConditionModel) -> None:
        export.export_unet(settings.out, average)
        parts = ["unet", "scheduler", "model_index.json", export.LOG, export.RESULTS]
        named = [f"{export.PIPELINE}/{part}" for part in parts]
        export.finish_stage(settings, clock, "unet", named)

    average = denoiser.train_denoiser(
        unet,
        data,
        device,
        clock,
        seconds=settings.unet_seconds,
        reserve_seconds=60 if settings.bar_prompts else 15,
        batch=settings.unet_batch,
        is_continued=earlier is not None,
        warm_up=warm_unet,
        save=save,
    )
    save(average)
    if settings.bar_prompts and clock.left() > 30:
        pipeline = architecture.build_pipeline(words, first, second, autoencoder, average)
        measure_bars(settings, clock, pipeline)
        save(average)
        clock.say(f"wrote {card.write_card(settings.out)}")


def measure_bars(settings: Settings, clock: Progress, pipeline: StableDiffusionXLPipeline) -> None:
    """Measure the pipeline with the exported CLIP, and write the results next to the model."""
    results = thresholds.measure(
        pipeline,
        settings.out / export.SCORER,
        settings.device,
        settings.bar_prompts,
        batch=min(100, settings.bar_prompts),
        grid=settings.report / "grid_final.png",
        progress=clock,
    )
    clock.say(f"generated {results['drawn']}; ceiling {results['ceiling']}")
    for folder in (settings.out / export.PIPELINE, settings.report):
        write_json(folder / export.RESULTS, results)


if __name__ == "__main__":
    sys.exit(run_entry(main))
