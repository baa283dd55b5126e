"""Settings of a DreamBooth run: its options, resolved for its base, without any default left."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nora_studio.options.config import PART_FIELDS, DreamboothOptions
from nora_studio.options.groups.checks import filled
from nora_studio.options.groups.photos import DEFAULT_CROPS, DEFAULT_MASK_FLOOR
from nora_studio.options.judges import judge_for, require_judge, why_unscored
from nora_studio.options.part_settings import part_settings
from nora_studio.sdxl.diffusion import Weighting
from nora_studio.sdxl.models import configured_resolution
from nora_studio.tasks.dreambooth.prior import class_folder, class_prompt
from nora_studio.trainer.settings import (
    TrainerSettings,
    keeping_settings,
    learning_settings,
    plan_of,
    tuning_settings,
)

SNR_GAMMA = 5.0
"""Min-SNR's usual gamma (arXiv 2303.09556, section 3.4)."""
_CLASS_WORD = re.compile(r"\[v\](?:['’]s)?\s+([^\W_]+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """The frozen base: which model, and in what form it is loaded and run."""

    model: str
    bits: Literal[16, 8, 4]
    quantized: frozenset[str]
    """The parts that are quantised with fewer bits than 16; the others stay on the CPU."""
    attention: str
    targets: str
    """Which linear layers are adapted: a key of `sdxl.models.TARGET_CHOICES`."""
    gradient_checkpointing: bool
    cache: bool
    """Whether encoded photos and prompts, and outer factors, are cached on disk."""
    resolution: int
    """Side of the training images in pixels."""


@dataclass(frozen=True, kw_only=True)
class SubjectSettings:
    """The prompt, and the word for the subject in it."""

    prompt: str
    trigger: str
    """The rare word of --trigger; empty to choose one from the base's vocabulary."""
    text_encoder_steps: int
    """Steps after which the text encoders' adapters are frozen; 0 for never."""


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """New tokens that replace [V]."""

    count: int
    """0 for none: a rare word replaces [V]."""
    name: str
    """Stem of the tokens' names."""
    start: str
    """Words whose vectors they start from; empty for a rare word of the base's vocabulary."""
    rate: float
    """Peak learning rate of their vectors."""


@dataclass(frozen=True, kw_only=True)
class PhotoSettings:
    """How a folder of photos becomes training images."""

    folder: Path
    captions: bool
    caption_dropout: float
    buckets: Literal["always", "never", "where they pay"]
    """Whether each photo keeps its aspect ratio; "where they pay" depends on the photos' sizes."""
    crops: int
    """Number of crops of each photo; 1 for the centre crop."""
    flip: float
    masks: Literal["files", "alpha", "none"]
    mask_floor: float
    expects_masks: bool
    """Whether an option is set that has no effect without masks."""
    hold_out: int
    """Number of photos held out for measuring the loss."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Settings of the denoising loss."""

    weighting: Weighting
    snr_gamma: float
    noise_offset: float
    max_timestep: int
    """Train on timesteps below this; 0 for all."""


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """Prior preservation: class images that are added to every batch."""

    weight: float
    """Weight of the class images in the loss; 0 for none."""
    prompt: str
    is_own_prompt: bool
    """Whether the prompt is set by an option; otherwise it is the training prompt without [V]."""
    pictures: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class PreviewSettings:
    """Images at a fixed seed that are generated while the run trains."""

    prompts: tuple[str, ...]
    seed: int
    steps: int
    """Inference steps."""
    guidance: float
    judge: str
    """The CLIP that scores them; empty for none."""
    unscored: str
    """Why the base has no judge; empty if it has one."""


@dataclass(frozen=True, kw_only=True)
class DreamboothSettings:
    """All settings of a run."""

    trainer: TrainerSettings
    base: BaseSettings
    subject: SubjectSettings
    tokens: TokenSettings
    photos: PhotoSettings
    loss: LossSettings
    prior: PriorSettings
    previews: PreviewSettings


def resolve(options: DreamboothOptions) -> DreamboothSettings:
    """Resolve a run's options. Of the base, only the configuration is read.

    Args:
        options: Options filled in by `with_recommended`.

    Raises:
        StudioError: the base does not exist, or an option does not fit the run's methods.
    """
    resolution = options.resolution
    if resolution is None:
        resolution = configured_resolution(options.model)
    parts = {method: part_settings(options, method) for method in options.methods}
    trainer = TrainerSettings(
        methods=options.methods,
        parts=parts,
        learning=learning_settings(options),
        tuning=tuning_settings(options, options.cache),
        plan=plan_of(options, options, options, options.sample_every),
        keeping=keeping_settings(options, options),
    )
    trained = {part for own in parts.values() for part in own}
    return DreamboothSettings(
        trainer=trainer,
        base=BaseSettings(
            model=options.model,
            bits=options.base_bits,
            quantized=frozenset(p for p in PART_FIELDS if p == "unet" or p in trained),
            attention=options.attention,
            targets=filled(options.targets),
            gradient_checkpointing=options.gradient_checkpointing,
            cache=options.cache,
            resolution=resolution,
        ),
        subject=SubjectSettings(
            prompt=options.prompt,
            trigger="" if options.trigger is None else options.trigger,
            text_encoder_steps=options.text_encoder_steps or 0,
        ),
        tokens=_tokens(options),
        photos=_photos(options),
        loss=LossSettings(
            weighting=options.weighting,
            snr_gamma=SNR_GAMMA if options.snr_gamma is None else options.snr_gamma,
            noise_offset=options.noise_offset,
            max_timestep=0 if options.max_timestep is None else options.max_timestep,
        ),
        prior=_prior(options, resolution),
        previews=_previews(options),
    )


def _tokens(options: DreamboothOptions) -> TokenSettings:
    after = _CLASS_WORD.search(options.prompt)
    start = after[1] if after else ""
    return TokenSettings(
        count=options.new_tokens,
        name=slug(options.run_name) if options.trigger is None else options.trigger,
        start=start if options.token_init is None else options.token_init.strip(),
        rate=filled(options.token_rate) if options.new_tokens else 0.0,
    )


def slug(name: str) -> str:
    """Return a run's name as one word of lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "subject"


def _photos(options: DreamboothOptions) -> PhotoSettings:
    floor, crops = options.mask_floor, options.crops
    return PhotoSettings(
        folder=options.instance_dir,
        captions=options.captions,
        caption_dropout=options.caption_dropout,
        buckets="where they pay"
        if options.buckets is None
        else ("always" if options.buckets else "never"),
        crops=1 if options.crop == "center" else DEFAULT_CROPS if crops is None else crops,
        flip=options.flip,
        masks=options.masks,
        mask_floor=DEFAULT_MASK_FLOOR if floor is None else floor,
        expects_masks=floor is not None,
        hold_out=options.hold_out,
    )


def _prior(options: DreamboothOptions, resolution: int) -> PriorSettings:
    prompt = options.class_prompt or class_prompt(options.prompt)
    folder = options.class_dir
    if folder is None:
        folder = class_folder(options.output_dir, options.model, prompt, resolution)
    return PriorSettings(
        weight=options.prior_weight,
        prompt=prompt,
        is_own_prompt=bool(options.class_prompt),
        pictures=filled(options.class_pictures) if options.prior_weight else 0,
        folder=folder,
    )


def _previews(options: DreamboothOptions) -> PreviewSettings:
    known = judge_for(options.model, options.clip) is not None
    return PreviewSettings(
        prompts=options.sample_prompts or (options.prompt,),
        seed=options.sample_seed,
        steps=options.sample_steps,
        guidance=options.guidance,
        judge=require_judge(options.model, options.clip) if options.score_samples else "",
        unscored="" if known or options.score_samples else why_unscored(options.model),
    )
