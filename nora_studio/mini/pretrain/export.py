"""Write the trained parts as users load them, and pack them into tars."""

import copy
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from open_clip import CLIP
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from nora_studio.errors import StudioError
from nora_studio.mini.pretrain.architecture import (
    CLIP_IMAGE_SIZE,
    build_pipeline,
    build_unet,
    clip_config,
)
from nora_studio.mini.pretrain.devices import Module, device_name, move, peak_gibibytes
from nora_studio.mini.pretrain.progress import Progress, write_json
from nora_studio.mini.pretrain.settings import Settings

PIPELINE, SCORER = "mini-sdxl", "mini-clip"
"""Folders of the diffusers pipeline and of the scoring CLIP."""
LOG, RESULTS = "training_log.json", "bars.json"
"""Files in the pipeline's folder; the card is written from them."""
UNLOGGED = ("out", "report", "pack", "init", "init_unet", "started_at")
"""Settings about one machine and one moment, which the shipped log leaves out."""


def to_half(part: Module) -> Module:
    """Return a float16 copy of a module on the CPU."""
    return move(copy.deepcopy(part), "cpu", torch.contiguous_format).half().eval()


def export_vae(out: Path, vae: AutoencoderKL) -> None:
    """Write the VAE of the pipeline."""
    to_half(vae).save_pretrained(out / PIPELINE / "vae")
    make_readable(out)


def export_encoders(
    out: Path,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection,
    clip: CLIP,
) -> None:
    """Write the tokenizers and text encoders of the pipeline, and the scoring CLIP."""
    pipeline, scorer = out / PIPELINE, out / SCORER
    for folder in (pipeline / "tokenizer", pipeline / "tokenizer_2", scorer):
        tokenizer.save_pretrained(folder)
    to_half(text_encoder).save_pretrained(pipeline / "text_encoder")
    to_half(text_encoder_2).save_pretrained(pipeline / "text_encoder_2")
    write_json(
        scorer / "open_clip_config.json",
        {
            "model_cfg": clip_config(len(tokenizer)),
            "preprocess_cfg": {
                "size": [CLIP_IMAGE_SIZE, CLIP_IMAGE_SIZE],
                "mode": "RGB",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "interpolation": "bicubic",
                "resize_mode": "shortest",
            },
        },
    )
    weights = {name: tensor.contiguous() for name, tensor in to_half(clip).state_dict().items()}
    temporary = scorer / "open_clip_model.safetensors.part"
    save_file(weights, temporary, metadata={"format": "pt"})
    temporary.replace(scorer / "open_clip_model.safetensors")
    make_readable(out)


def check_encoders(out: Path) -> None:
    """Refuse a folder that lacks results of the encoders stage."""
    folder = out / PIPELINE
    names = ("tokenizer", "text_encoder", "text_encoder_2", "vae")
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise StudioError(
            f"expected {', '.join(names)} in {folder}; it lacks {', '.join(missing)}. Run the "
            "encoders stage first, or name its results with --init."
        )


def load_all_but_unet(
    results: Path, device: str
) -> tuple[CLIPTokenizer, CLIPTextModel, CLIPTextModelWithProjection, AutoencoderKL]:
    """Load the pipeline's parts except the UNet, frozen, in float32."""
    check_encoders(results)
    folder = results / PIPELINE
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    first = CLIPTextModel.from_pretrained(
        folder / "text_encoder", dtype=torch.float32, use_safetensors=True
    )
    second = CLIPTextModelWithProjection.from_pretrained(
        folder / "text_encoder_2", dtype=torch.float32, use_safetensors=True
    )
    for part in (first, second):
        move(part, device).eval().requires_grad_(False)
    return tokenizer, first, second, load_vae(results, device)


def load_vae(out: Path, device: str) -> AutoencoderKL:
    """Load the VAE, frozen, in float32."""
    vae = AutoencoderKL.from_pretrained(
        out / PIPELINE / "vae", dtype=torch.float32, use_safetensors=True
    )
    return move(vae, device).eval().requires_grad_(False)


def load_unet(source: Path) -> UNet2DConditionModel:
    """Load the UNet of earlier results (folders or tars), in float32."""
    with tempfile.TemporaryDirectory() as folder:
        copy_results(source, Path(folder))
        unet = Path(folder) / PIPELINE / "unet"
        if not unet.is_dir():
            raise StudioError(
                f"expected a UNet in {source}; it has none. Run the unet stage first."
            )
        loaded = UNet2DConditionModel.from_pretrained(
            unet, dtype=torch.float32, use_safetensors=True
        )
    # Built here: a loaded one would write this folder's path into the config that it is saved with.
    fresh = build_unet()
    fresh.load_state_dict(loaded.state_dict())
    return fresh


def export_unet(out: Path, unet: UNet2DConditionModel) -> None:
    """Complete the pipeline's folder: the UNet in two shards, scheduler and index."""
    tokenizer, first, second, vae = load_all_but_unet(out, "cpu")
    pipeline = build_pipeline(
        tokenizer, to_half(first), to_half(second), to_half(vae), to_half(unet)
    )
    temporary = out / (PIPELINE + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary, max_shard_size="15MB")
    for name in ("unet", "scheduler"):
        shutil.rmtree(out / PIPELINE / name, ignore_errors=True)
        (temporary / name).replace(out / PIPELINE / name)
    (temporary / "model_index.json").replace(out / PIPELINE / "model_index.json")
    shutil.rmtree(temporary)
    make_readable(out)


def make_readable(out: Path) -> None:
    """Make the weights readable by everyone; safetensors makes them private."""
    for name in (PIPELINE, SCORER):
        for path in (out / name).rglob("*.safetensors"):
            path.chmod(0o644)


def finish_stage(settings: Settings, clock: Progress, stage: str, names: Sequence[str]) -> None:
    """Log the run next to the model and in the report; pack the stage's results."""
    clock.note(
        f"{stage}_run",
        pictures=settings.pictures,
        seed=settings.seed,
        total_seconds=round(clock.seconds(), 1),
        device=device_name(settings.device),
        torch=torch.__version__,
        peak_gib=peak_gibibytes(settings.device),
        settings={k: str(v) for k, v in asdict(settings).items() if k not in UNLOGGED},
    )
    clock.write(settings.out / PIPELINE / LOG)
    clock.write(settings.report / LOG)
    if settings.pack:
        pack(settings.out, names, settings.report, stage)
    clock.say(f"saved the {stage} stage")


def pack(out: Path, names: Sequence[str], report: Path, stem: str, limit: int = 15 << 20) -> None:
    """Pack the files under the names in `out` into as few uncompressed tars of `limit` bytes."""
    report.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name in names:
        found = out / name
        files += [found] if found.is_file() else [p for p in found.rglob("*") if p.is_file()]
    bins: list[tuple[int, list[Path]]] = []
    for path in sorted(files, key=lambda p: (-p.stat().st_size, str(p))):
        size = path.stat().st_size + 2048  # header and padding
        for i, (used, members) in enumerate(bins):
            if used + size <= limit:
                bins[i] = (used + size, [*members, path])
                break
        else:
            bins.append((size, [path]))
    for number, (_, members) in enumerate(bins, start=1):
        target = report / f"{stem}-{number}.tar"
        temporary = target.with_name(target.name + ".part")
        with tarfile.open(temporary, "w") as tar:
            for path in members:
                tar.add(path, arcname=str(path.relative_to(out)))
        temporary.replace(target)


def copy_results(source: Path, out: Path) -> None:
    """Copy the models of earlier stages into `out`, from tars or model folders in `source`."""
    tars = sorted(source.glob("*.tar"))
    folders = [source / name for name in (PIPELINE, SCORER) if (source / name).is_dir()]
    if not tars and not folders:
        raise StudioError(
            f"Expected {source} to hold {PIPELINE}/ or tars of an earlier stage; found neither."
        )
    for path in tars:
        with tarfile.open(path) as tar:
            tar.extractall(out, filter="data")
    for folder in folders:
        if folder.resolve() != (out / folder.name).resolve():
            shutil.copytree(folder, out / folder.name, dirs_exist_ok=True)
