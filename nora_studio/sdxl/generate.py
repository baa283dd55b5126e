"""Generate images with a base and at most one adapter, one for each prompt and seed."""

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
from nora_studio.runs.atomic import temporary_path
from nora_studio.runs.disk_errors import START_AGAIN, writing
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
    """Load an adapter onto a pipeline for the length of a block; None leaves the base unchanged.

    Its new tokens are added to encoders and tokenizers too. Generate all images inside the block:
    `generate_images` is lazy. After the block, also after an error, the pipeline is the base again.

    Args:
        path: An open adapter, or anything that `open_adapter` opens.
        strength: Factor on its change; 1 is as trained, 0 is the base. New tokens are not scaled.

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


def generate_images(
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
    on_image: Callable[[int, int], object] | None = None,
) -> Iterator[tuple[str, int, Image.Image]]:
    """Generate an image of every prompt with every seed, prompts in the outer loop.

    The starting noise comes from a CPU generator with the image's own seed, in float32: base and
    adapters start from the same noise on every device, whatever the batch. Except for rounding (a
    level or two of 255 in float32), no image depends on the batch it is generated in.

    Args:
        steps: Denoising steps.
        guidance: Classifier-free guidance scale; at 1 or below there is no guidance.
        size: Side of the images in pixels, a multiple of 8.
        negative: Negative prompt.
        trigger: Trigger word for "[V]"; None removes "[V]" (`replace_token`).
        batch: Images per batch. None: on a GPU, as many as have the pixels of four 1024-pixel
            images, at most 32; on a CPU 1, since larger batches are not faster there.
        done: Pairs of prompt and seed to leave out.
        on_image: Called with (images generated, images to generate).

    Yields:
        The prompt as given, the seed and the image.

    Raises:
        StudioError: a value is out of range, or an image has NaN.
    """
    settings = _Settings(steps, guidance, size, negative, trigger)
    _check_settings(settings, batch)
    batch = batch or default_batch(pipe, size)
    pairs = [(prompt, seed) for prompt in prompts for seed in seeds if (prompt, seed) not in done]
    return _generate_batches(pipe, pairs, settings, batch, on_image)


def _generate_batches(
    pipe: StableDiffusionXLPipeline,
    pairs: list[tuple[str, int]],
    settings: _Settings,
    batch: int,
    on_image: Callable[[int, int], object] | None,
) -> Iterator[tuple[str, int, Image.Image]]:
    texts: dict[str, Conditioning] = {}
    for start in range(0, len(pairs), batch):
        chunk = pairs[start : start + batch]
        for prompt, _ in chunk:
            if prompt not in texts:
                texts[prompt] = _encode_text(pipe, prompt, settings)
        conditioning = [texts[prompt] for prompt, _ in chunk]
        images = _denoise(pipe, conditioning, [seed for _, seed in chunk], settings)
        for index, ((prompt, seed), image) in enumerate(
            zip(chunk, images, strict=True), start=start + 1
        ):
            if on_image is not None:
                on_image(index, len(pairs))
            yield prompt, seed, image


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
        for column in zip(*conditioning, strict=True)
    )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    side = settings.size // pipe.vae_scale_factor
    shape = (pipe.unet.config["in_channels"], side, side)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    if settings.size >= SLICED_DECODING_SIZE:
        # At full size, decoding a batch needs the most memory, and is not faster than one by one.
        pipe.vae.enable_slicing()
    # (batch, 3, height, width) in [0, 1]
    pixels: Tensor = pipe(  # pyright: ignore[reportAssignmentType]
        prompt_embeds=text,
        negative_prompt_embeds=negative_text,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
        latents=noise.to(pipe.unet.dtype),
        generator=generators,  # For samplers that add noise at each step.
        height=settings.size,
        width=settings.size,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        output_type="pt",
        return_dict=False,
    )[0]
    for seed, image in zip(seeds, pixels, strict=True):
        if not torch.isfinite(image).all():
            raise StudioError(
                f"the image of seed {seed} has NaN in {pipe.unet.dtype}. Generate in bfloat16 or "
                "float32, or use a VAE that is safe in float16."
            )
    array = (pixels.float() * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(image) for image in array]


def default_batch(pipe: StableDiffusionXLPipeline, size: int) -> int:
    """Return the default batch size of `generate_images` for a side in pixels."""
    on_gpu = pipe.device.type != "cpu"
    return max(1, min(GPU_BATCH_LIMIT, GPU_BATCH_PIXELS // size**2)) if on_gpu else 1


def _check_settings(settings: _Settings, batch: int | None) -> None:
    if settings.steps < 1:
        raise StudioError(f"steps: expected 1 or more; got {settings.steps}.")
    if not 0 <= settings.guidance <= 100:
        raise StudioError(f"guidance: expected 0 to 100; got {settings.guidance}.")
    if settings.size < 8 or settings.size % 8:
        raise StudioError(f"size: expected a multiple of 8 pixels, 8 or more; got {settings.size}.")
    if batch is not None and batch < 1:
        raise StudioError(f"batch: expected 1 or more; got {batch}.")
    if settings.negative and settings.guidance <= 1:
        raise StudioError(
            f"guidance: expected a number above 1 for a negative prompt; got {settings.guidance}. "
            "Raise it, or leave the negative prompt out."
        )


def save_image(image: Image.Image, path: Path, recipe: Recipe, then: str = START_AGAIN) -> None:
    """Write a PNG with its recipe, as JSON and in the layout that image tools show.

    Args:
        then: What to do after a failed write, once its cause is gone.

    Raises:
        StudioError: the name does not end with ".png", or the file cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise StudioError(
            f"expected a PNG file (.png), which can hold the image's recipe; got {path}."
        )
    info = PngInfo()
    info.add_text(RECIPE_KEY, json.dumps(asdict(recipe)))
    info.add_text("parameters", _parameters_text(recipe))
    fresh = temporary_path(path)
    with writing("an image", path, then):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with fresh.open("wb") as stream:
                image.save(stream, format="PNG", pnginfo=info)
                stream.flush()
                os.fsync(stream.fileno())  # So that a power cut leaves no empty image.
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def _parameters_text(recipe: Recipe) -> str:
    """Return a recipe in AUTOMATIC1111's layout: prompt, negative prompt, a line of settings."""
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
