"""From options and a base to what training needs: the subject, its batches, its fixed batches."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from tqdm import tqdm

from nora_studio.cache import encode_photos
from nora_studio.config import DreamboothOptions
from nora_studio.data.captions import read_captions
from nora_studio.data.images import list_photos, prepare_photo
from nora_studio.denoising import Denoising
from nora_studio.dreambooth import BatchDraws, encode_prompts
from nora_studio.errors import StudioError
from nora_studio.held_out import FixedBatches
from nora_studio.models import choose_trigger, native_resolution
from nora_studio.personalise import Subject
from nora_studio.prior import PairedDraws, class_folder, class_prompt, draw_class_pictures

PRIOR_SEED = 1_000_003
"""Added to a run's seed for the draws of class pictures."""


@dataclass(frozen=True)
class TrainingPhotos:
    """The photos of a subject with their words, those held out last."""

    files: list[Path]
    captions: list[str]
    held_out: int

    @classmethod
    def find(cls, options: DreamboothOptions) -> "TrainingPhotos":
        """Look before any model is loaded: mistakes are here.

        Raises:
            StudioError: there are no photos, a caption is wrong, or none is left to train on.
        """
        files = list_photos(options.instance_dir)
        own = read_captions(files) if options.captions else [None] * len(files)
        if options.hold_out >= len(files):
            raise StudioError(
                f"--hold-out: expected fewer than the {len(files)} photos in "
                f"{options.instance_dir}; got {options.hold_out}."
            )
        return cls(files, [words or options.prompt for words in own], options.hold_out)


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
    photos: TrainingPhotos,
    say: Callable[[str], object],
) -> Prepared:
    """Encode the subject's photos and words; draw class pictures where the prior is preserved.

    Raises:
        StudioError: a photo cannot be read, or the base does not fit the options.
    """
    size = options.resolution or native_resolution(pipe)
    trigger = choose_trigger(pipe, options.trigger)
    prior = options.class_prompt or class_prompt(options.prompt)
    words = [*photos.captions, *([prior] if options.prior_weight else [])]
    prompts = list(dict.fromkeys(words))
    subject = Subject(
        options=options,
        pipe=pipe,
        size=size,
        trigger=trigger,
        text=encode_prompts(pipe, prompts, trigger),
        process=Denoising.of(pipe, options.weighting, options.snr_gamma or 5.0),
    )
    say(f"[V] is {trigger!r}; encoding {len(photos.files)} photos at {size}x{size}")
    whose = torch.tensor([prompts.index(caption) for caption in photos.captions])
    timesteps = subject.process.timesteps_below(options.max_timestep)
    kept = len(photos.files) - photos.held_out
    cache = encode_photos(pipe, [prepare_photo(file, size) for file in photos.files])
    draws = BatchDraws(
        cache.rows(slice(kept)),
        options.batch_size or 1,
        timesteps,
        options.seed,
        whose[:kept],
        options.noise_offset,
    )
    measured = slice(kept, None) if photos.held_out else slice(kept)
    fixed = FixedBatches.of(
        cache.rows(measured), whose[measured], subject.process.length, bool(photos.held_out)
    )
    paired = (
        _with_prior(subject, draws, prior, prompts.index(prior)) if options.prior_weight else draws
    )
    return Prepared(subject, paired, fixed if options.evaluate_every else None)


def _with_prior(subject: Subject, draws: BatchDraws, prompt: str, number: int) -> PairedDraws:
    options, pipe, count = subject.options, subject.pipe, subject.options.class_pictures or 0
    folder = options.class_dir or class_folder(
        options.output_dir, options.model, prompt, subject.size
    )
    with tqdm(desc="Class pictures", unit="picture") as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        files = draw_class_pictures(
            pipe, folder, count, options.model, prompt, subject.size, advance
        )
    cache = encode_photos(pipe, [prepare_photo(file, subject.size) for file in files])
    prior = BatchDraws(
        cache,
        draws.batch_size,
        draws.timesteps,
        options.seed + PRIOR_SEED,
        torch.full((len(files),), number),
        options.noise_offset,
    )
    return PairedDraws(draws, prior, options.prior_weight)
