"""From options and a base to what training needs: the subject, its batches, its fixed batches."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from tqdm import tqdm

from nora_studio.adapters.new_tokens import extend
from nora_studio.options.config import DreamboothOptions
from nora_studio.photos.views import photos_of_size
from nora_studio.runs import processes
from nora_studio.sdxl.cache import LatentCache, Stores, encode_photos
from nora_studio.sdxl.diffusion import Denoising
from nora_studio.sdxl.models import all_on_device, choose_trigger, native_resolution
from nora_studio.tasks.dreambooth.batches import BatchDraws
from nora_studio.tasks.dreambooth.photo_set import PhotoSet
from nora_studio.tasks.dreambooth.prior import (
    PairedDraws,
    class_folder,
    class_prompt,
    draw_class_pictures,
)
from nora_studio.tasks.dreambooth.step import encode_prompts
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.tasks.dreambooth.token_training import name_tokens, start_words
from nora_studio.tasks.dreambooth.validation import FixedBatches

PRIOR_SEED = 1_000_003
"""Added to a run's seed for the draws of class pictures."""


@dataclass(frozen=True)
class Prepared:
    """What every twin shares."""

    subject: Subject
    draws: BatchDraws | PairedDraws
    fixed: FixedBatches | None
    """None where no measurements are wanted."""


def prepare(
    options: DreamboothOptions,
    pipe: StableDiffusionXLPipeline,
    photos: PhotoSet,
    say: Callable[[str], object],
) -> Prepared:
    """Encode the subject's photos and words; draw class pictures where the prior is preserved.

    Raises:
        StudioError: a photo cannot be used, or the base does not fit the options.
    """
    size = options.resolution or native_resolution(pipe)
    tokens = name_tokens(pipe, options) if options.new_tokens else None
    start = f", starting from {start_words(pipe, options)!r}" if tokens else ""
    if tokens is not None:
        extend(pipe, tokens)  # For good: base and twins read the same ids.
    trigger = tokens.trigger if tokens else choose_trigger(pipe, options.trigger)
    stores = Stores.default() if options.cache else None
    prior = options.class_prompt or class_prompt(options.prompt)
    prompts = photos.prompts
    if options.prior_weight > 0 and prior not in prompts:
        prompts = [*prompts, prior]
    subject = Subject(
        options=options,
        pipe=pipe,
        size=size,
        trigger=trigger,
        # What stands for new tokens is not in the weights that kept prompts go by.
        text=encode_prompts(
            pipe, prompts, trigger, stores.text if stores and tokens is None else None
        ),
        process=Denoising.of(pipe, options.weighting, options.snr_gamma or 5.0),
        tokens=tokens,
    )
    for line in photos.prompt_warnings(pipe, trigger):
        say(line)
    say(f"[V] is {trigger!r}{start}; encoding photos at {size}x{size}")
    trained, held_out = photos.split(options.hold_out)
    caches = trained.encode(pipe, size, stores, say)
    draws = trained.draws(caches, subject.process.timesteps_below(options.max_timestep), prompts)
    fixed = None
    if options.evaluate_every:
        measured, of = (caches, trained) if held_out is None else (
            held_out.encode(pipe, size, stores, say), held_out
        )  # fmt: skip
        fixed = FixedBatches.of(
            measured, of.prompt_numbers(prompts), subject.process.length, held_out is not None
        )
    if options.prior_weight > 0:
        # A preflight takes the photos for the class's pictures: batches are as large with them.
        files = photos.files if options.preflight else _class_pictures(subject, prior)
        priors = _prior_draws(subject, caches, files, prompts.index(prior), stores)
        return Prepared(subject, PairedDraws(draws, priors, options.prior_weight), fixed)
    return Prepared(subject, draws, fixed)


def _class_pictures(subject: Subject, prompt: str) -> list[Path]:
    options, size = subject.options, subject.size
    folder = options.class_dir or class_folder(options.output_dir, options.model, prompt, size)
    count = options.class_pictures or 0
    hidden = not processes.is_main()
    with (
        tqdm(desc="Class pictures", unit="picture", disable=hidden) as bar,
        all_on_device(subject.pipe),
    ):

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        return draw_class_pictures(
            subject.pipe, folder, count, options.model, prompt, size, advance
        )


def _prior_draws(
    subject: Subject,
    caches: list[LatentCache],
    files: list[Path],
    number: int,
    stores: Stores | None,
) -> list[BatchDraws]:
    """Batches of the class in each size that the subject's pictures have."""
    options, pipe, scale = subject.options, subject.pipe, subject.pipe.vae_scale_factor
    priors = []
    for offset, own in enumerate(caches):
        height, width = (side * scale for side in own.mean.shape[-2:])
        pictures = photos_of_size(files, (height, width), scale)
        encoded = encode_photos(pipe, pictures, stores.latents if stores else None, pipe.device)
        priors.append(
            BatchDraws(
                encoded,
                options.batch_size or 1,
                subject.process.timesteps_below(options.max_timestep),
                options.seed + PRIOR_SEED + offset,
                torch.full((len(files),), number),
                noise_offset=options.noise_offset,
            )
        )
    return priors
