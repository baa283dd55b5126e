"""Prepare a training from settings and a base: the subject, and batches to train and measure on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from tqdm import tqdm

from nora_studio.adapters.new_tokens import extend
from nora_studio.photos.views import photos_of_size
from nora_studio.runs import processes
from nora_studio.sdxl.cache import LatentCache, Stores, encode_photos
from nora_studio.sdxl.diffusion import Denoising
from nora_studio.sdxl.models import all_on_device, check_trigger, choose_trigger
from nora_studio.tasks.dreambooth.batches import PhotoBatches
from nora_studio.tasks.dreambooth.photo_set import PhotoSet
from nora_studio.tasks.dreambooth.prior import (
    PriorBatches,
    generate_class_images,
)
from nora_studio.tasks.dreambooth.settings import DreamboothSettings, SubjectSettings
from nora_studio.tasks.dreambooth.step import encode_prompts
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.tasks.dreambooth.token_training import name_tokens, start_words
from nora_studio.tasks.dreambooth.validation import FixedBatches

PRIOR_SEED = 1_000_003
"""Added to a run's seed for sampling batches of class images."""


@dataclass(frozen=True)
class Prepared:
    """The subject and the batches, shared by all twins."""

    subject: Subject
    batches: PhotoBatches | PriorBatches
    fixed: FixedBatches | None
    """Batches to measure the loss on; None if it is not measured."""


def prepare(
    settings: DreamboothSettings,
    pipe: StableDiffusionXLPipeline,
    photos: PhotoSet,
    say: Callable[[str], object],
    *,
    stand_in_class_images: bool = False,
) -> Prepared:
    """Encode photos and prompts, and with prior preservation generate class images.

    Args:
        photos_as_class: Use the photos instead of class images, as a preflight does: the batches
            have the same size.

    Raises:
        StudioError: a photo cannot be used, or the base does not fit the options.
    """
    learning, loss, prior = settings.trainer.learning, settings.loss, settings.prior
    size, tokens, start = settings.base.resolution, None, ""
    if settings.tokens.count:
        words = start_words(pipe, settings.tokens)
        start = f", starting from {words!r}"
        tokens = name_tokens(pipe, settings.tokens, words, learning.seed)
        extend(pipe, tokens)  # Never undone: base and twins use the same ids.
    trigger = tokens.trigger if tokens else _checked_or_chosen_trigger(pipe, settings.subject)
    stores = Stores.default() if settings.base.cache else None
    prompts = photos.prompts
    if prior.weight > 0 and prior.prompt not in prompts:
        prompts = [*prompts, prior.prompt]
    subject = Subject(
        settings=settings,
        pipe=pipe,
        trigger=trigger,
        # The cache's keys do not cover the new tokens' vectors, so their prompts are not cached.
        text=encode_prompts(
            pipe, prompts, trigger, stores.text if stores and tokens is None else None
        ),
        process=Denoising.of(pipe, loss.weighting, loss.snr_gamma),
        tokens=tokens,
    )
    for line in photos.prompt_warnings(pipe, trigger, settings):
        say(line)
    say(f"[V] is {trigger!r}{start}; encoding photos at {size}x{size}")
    trained, held_out = photos.split()
    caches = trained.encode(pipe, size, stores, say)
    timesteps = subject.process.timesteps_below(loss.max_timestep)
    batches = trained.batches(caches, timesteps, prompts, learning, loss.noise_offset)
    fixed = None
    if settings.trainer.plan.evaluate_every:
        measured, of = (caches, trained) if held_out is None else (
            held_out.encode(pipe, size, stores, say), held_out
        )  # fmt: skip
        fixed = FixedBatches.of(
            measured, of.prompt_numbers(prompts), subject.process.length, held_out is not None
        )
    if prior.weight > 0:
        files = photos.files if stand_in_class_images else _class_pictures(subject)
        priors = _prior_batches(subject, caches, files, prompts.index(prior.prompt), stores)
        return Prepared(subject, PriorBatches(batches, priors, prior.weight), fixed)
    return Prepared(subject, batches, fixed)


def _checked_or_chosen_trigger(pipe: StableDiffusionXLPipeline, subject: SubjectSettings) -> str:
    return check_trigger(pipe, subject.trigger) if subject.trigger else choose_trigger(pipe)


def _class_pictures(subject: Subject) -> list[Path]:
    model, prior = subject.settings.base.model, subject.settings.prior
    hidden = not processes.is_main()
    with (
        tqdm(desc="Class images", unit="image", disable=hidden) as bar,
        all_on_device(subject.pipe),
    ):

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        return generate_class_images(
            subject.pipe, prior.folder, prior.pictures, model, prior.prompt, subject.size, advance
        )


def _prior_batches(
    subject: Subject,
    caches: list[LatentCache],
    files: list[Path],
    number: int,
    stores: Stores | None,
) -> list[PhotoBatches]:
    """Return a source of class images for each image size of the subject's batches."""
    learning, loss = subject.settings.trainer.learning, subject.settings.loss
    pipe, scale = subject.pipe, subject.pipe.vae_scale_factor
    priors = []
    for offset, own in enumerate(caches):
        height, width = (side * scale for side in own.mean.shape[-2:])
        pictures = photos_of_size(files, (height, width), scale)
        encoded = encode_photos(pipe, pictures, stores.latents if stores else None, pipe.device)
        priors.append(
            PhotoBatches(
                encoded,
                learning.batch_size,
                subject.process.timesteps_below(loss.max_timestep),
                learning.seed + PRIOR_SEED + offset,
                torch.full((len(files),), number),
                noise_offset=loss.noise_offset,
            )
        )
    return priors
