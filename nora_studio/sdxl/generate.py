"""Draw pictures: a base, at most one adapter on it, one picture for each prompt and seed."""

import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from nora_studio.adapters.files.adapter_file import AdapterFile, open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.methods.attachment import detach
from nora_studio.adapters.new_tokens import temporary_tokens
from nora_studio.errors import StudioError
from nora_studio.photos.prompts import replace_token
from nora_studio.runs.atomic import beside
from nora_studio.runs.storage import START_AGAIN, writing
from nora_studio.sdxl.models import parts_of
from nora_studio.sdxl.recipes import RECIPE_KEY, Recipe

GPU_BATCH_PIXELS = 4 * 1024**2
GPU_BATCH_LIMIT = 32
SLICED_DECODING_SIZE = 512

Conditioning = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""Text, negative text: (1, tokens, width); pooled, negative pooled: (1, projection)."""


@contextmanager
def adapter_on(
    pipe: StableDiffusionXLPipeline, path: Path | AdapterFile | None, strength: float = 1.0
) -> Iterator[AdapterCard | None]:
    """Put an adapter on a loaded pipeline for the length of a block; None leaves the base as it is.

    New tokens that it has come along, tokenizers included. Draw inside the block to the last
    picture: `draw` is lazy. Afterwards, errors included, the pipeline is the bare base again.

    Args:
        path: An open adapter, or what `open_adapter` opens.
        strength: Factor on its change; 1 is as trained, 0 is the base. New tokens have none.

    Raises:
        StudioError: the adapter cannot be read, or was trained on another base.
    """
    if path is None:
        yield None
        return
    parts = parts_of(pipe)
    adapter = open_adapter(path)
    try:
        with temporary_tokens(pipe, adapter.new_tokens()):
            yield load_adapter(adapter, parts, strength)
    finally:
        for module in parts.values():
            detach(module)


@dataclass(frozen=True)
class _Settings:
    steps: int
    guidance: float
    size: int
    negative: str | None
    trigger: str | None


def draw(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float,
    size: int,
    negative: str | None = None,
    trigger: str | None = None,
    batch: int | None = None,
    done: Collection[tuple[str, int]] = (),
    on_picture: Callable[[int, int], object] | None = None,
) -> Iterator[tuple[str, int, Image.Image]]:
    """Draw every prompt with every seed, prompts in the outer loop.

    The starting noise comes from a CPU generator of the picture's own seed, in float32: base and
    adapters start from the same noise on every device, and whatever shares their batch. Beyond
    rounding (a level or two of 255 in float32), no picture depends on the batch it was drawn in.

    Args:
        steps: Denoising steps.
        guidance: Classifier-free guidance scale; at 1 or below there is none.
        size: Side of the pictures in pixels, a multiple of 8.
        negative: What guidance leads away from.
        trigger: Rare word for "[V]"; None leaves it out (`replace_token`).
        batch: Pictures at once. None: on a GPU as many as have the pixels of four 1024-pixel
            pictures, 32 at most; on a CPU 1, since more gain nothing there.
        done: Pairs of prompt and seed to leave out.
        on_picture: Called with (pictures drawn, pictures to draw).

    Yields:
        The prompt as given, the seed and the picture.

    Raises:
        StudioError: a value is out of its range, or a picture came out as NaN.
    """
    settings = _Settings(steps, guidance, size, negative, trigger)
    _check_settings(settings, batch)
    batch = batch or default_batch(pipe, size)
    pairs = [(prompt, seed) for prompt in prompts for seed in seeds if (prompt, seed) not in done]
    return _draw_batches(pipe, pairs, settings, batch, on_picture)


def _draw_batches(
    pipe: StableDiffusionXLPipeline,
    pairs: list[tuple[str, int]],
    settings: _Settings,
    batch: int,
    on_picture: Callable[[int, int], object] | None,
) -> Iterator[tuple[str, int, Image.Image]]:
    texts: dict[str, Conditioning] = {}
    for start in range(0, len(pairs), batch):
        chunk = pairs[start : start + batch]
        for prompt, _ in chunk:
            if prompt not in texts:
                texts[prompt] = _encode_text(pipe, prompt, settings)
        conditioning = [texts[prompt] for prompt, _ in chunk]
        pictures = _denoise(pipe, conditioning, [seed for _, seed in chunk], settings)
        for index, ((prompt, seed), picture) in enumerate(zip(chunk, pictures), start=start + 1):
            if on_picture is not None:
                on_picture(index, len(pairs))
            yield prompt, seed, picture


@torch.no_grad()
def _encode_text(pipe: StableDiffusionXLPipeline, prompt: str, settings: _Settings) -> Conditioning:
    return pipe.encode_prompt(
        prompt=replace_token(prompt, settings.trigger),
        device=pipe.device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=settings.guidance > 1,
        negative_prompt=settings.negative,
    )


def _denoise(
    pipe: StableDiffusionXLPipeline,
    conditioning: list[Conditioning],
    seeds: list[int],
    settings: _Settings,
) -> list[Image.Image]:
    text, negative_text, pooled, negative_pooled = (
        None if column[0] is None else torch.cat(column)  # pyright: ignore
        for column in zip(*conditioning)
    )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    side = settings.size // pipe.vae_scale_factor
    shape = (pipe.unet.config["in_channels"], side, side)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    if settings.size >= SLICED_DECODING_SIZE:
        # Decoding is a batch's largest need of memory at full size, and gains no speed from it.
        pipe.vae.enable_slicing()
    # (batch, 3, height, width) in [0, 1]
    pixels: Tensor = pipe(  # pyright: ignore[reportAssignmentType]
        prompt_embeds=text,
        negative_prompt_embeds=negative_text,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
        latents=noise.to(pipe.unet.dtype),
        generator=generators,  # for samplers that add noise as they go
        height=settings.size,
        width=settings.size,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        output_type="pt",
        return_dict=False,
    )[0]
    for seed, picture in zip(seeds, pixels):
        if not torch.isfinite(picture).all():
            raise StudioError(
                f"the picture of seed {seed} came out as NaN in {pipe.unet.dtype}. Draw in "
                "bfloat16 or float32, or use a VAE that is safe in float16."
            )
    array = (pixels.float() * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in array]


def default_batch(pipe: StableDiffusionXLPipeline, size: int) -> int:
    """How many pictures of that side `draw` makes at once, where nobody says."""
    on_gpu = pipe.device.type != "cpu"
    return max(1, min(GPU_BATCH_LIMIT, GPU_BATCH_PIXELS // size**2)) if on_gpu else 1


def _check_settings(settings: _Settings, batch: int | None) -> None:
    if settings.steps < 1:
        raise StudioError(f"steps must be 1 or more; got {settings.steps}.")
    if not 0 <= settings.guidance <= 100:
        raise StudioError(f"guidance must be 0 to 100; got {settings.guidance}.")
    if settings.size < 8 or settings.size % 8:
        raise StudioError(f"size must be a multiple of 8 pixels; got {settings.size}.")
    if batch is not None and batch < 1:
        raise StudioError(f"batch must be 1 or more; got {batch}.")
    if settings.negative and settings.guidance <= 1:
        raise StudioError(
            f"a negative prompt needs a guidance above 1; got {settings.guidance}. Raise it, or "
            "leave the negative prompt out."
        )


def save_picture(image: Image.Image, path: Path, recipe: Recipe, then: str = START_AGAIN) -> None:
    """Write a PNG that carries its recipe, as JSON and in the form common image tools show.

    Args:
        then: What to do where it cannot be written, once the cause is gone.

    Raises:
        StudioError: the name does not end with ".png", or it cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise StudioError(f"pictures are PNG files, which carry their recipe; got {path}.")
    info = PngInfo()
    info.add_text(RECIPE_KEY, json.dumps(asdict(recipe)))
    info.add_text("parameters", _parameters_text(recipe))
    fresh = beside(path)
    with writing("a picture", path, then):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("wb") as stream:
                image.save(stream, format="PNG", pnginfo=info)
                stream.flush()
                os.fsync(stream.fileno())  # A power cut leaves no empty picture, either.
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def _parameters_text(recipe: Recipe) -> str:
    """AUTOMATIC1111's layout: prompt, negative prompt, then one line of settings."""
    lines = [replace_token(recipe.prompt, recipe.trigger)]
    if recipe.negative:
        lines.append(f"Negative prompt: {recipe.negative}")
    settings = [
        f"Steps: {recipe.steps}",
        f"CFG scale: {recipe.guidance:g}",
        f"Seed: {recipe.seed}",
        f"Size: {recipe.size}x{recipe.size}",
        f"Model: {recipe.model}",
    ]
    if recipe.strengths:
        used = ", ".join(f"{name} {strength:g}" for name, strength in recipe.strengths)
        settings.append(f"Adapters: ({used})")
    elif recipe.adapter is not None:
        settings += [f"Adapter: {recipe.adapter}", f"Adapter strength: {recipe.strength:g}"]
    lines.append(", ".join([*settings, f"Version: NoRA Studio {recipe.version}"]))
    return "\n".join(lines)
