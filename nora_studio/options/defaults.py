"""Fill in recommended options for the model, and check all options early."""

import dataclasses
from collections.abc import Callable
from typing import Any

from nora_studio.adapters.methods.quantised import check_base_bits
from nora_studio.adapters.methods.table import METHODS, check_optimizer, method_named
from nora_studio.adapters.new_tokens import token_words
from nora_studio.errors import StudioError
from nora_studio.options.config import PART_FIELDS, DreamboothOptions
from nora_studio.options.groups.adapter import check_adapter_options
from nora_studio.options.groups.checks import check_option, filled
from nora_studio.options.groups.learning import (
    check_encoder_options,
    check_encoder_steps,
    check_learning_options,
    check_resolved,
)
from nora_studio.options.groups.loss import check_loss_options
from nora_studio.options.groups.memory import check_memory_options
from nora_studio.options.groups.photos import check_photo_options
from nora_studio.options.groups.tokens import check_token_options
from nora_studio.options.groups.watching import check_watching_options, recommended_watching
from nora_studio.options.judges import judge_for, why_unscored
from nora_studio.options.paths import check_folder_name
from nora_studio.photos.prompts import PLACEHOLDER
from nora_studio.runs import processes

_STEPS = {"sdxl": 500, "mini": 120}
_TARGETS: dict[str, Any] = {"sdxl": "attention", "mini": "attention+feedforward"}
_BATCH = {"sdxl": 4, "mini": 3}
_CLASS_PICTURES = {"sdxl": 100, "mini": 20}
# SDXL's is that of cloneofsimo/lora's inversion steps; the embedded model's was found by trial.
_TOKEN_RATES = {"sdxl": 5e-4, "mini": 3e-3}
CHECKS: tuple[Callable[[Any], None], ...] = (
    check_adapter_options,
    check_learning_options,
    check_encoder_options,
    check_loss_options,
    check_memory_options,
    check_photo_options,
    check_token_options,
    check_watching_options,
)
"""Checks of the single groups of options."""


def with_recommended(options: DreamboothOptions) -> DreamboothOptions:
    """Fill in recommended options, and check all that do not depend on files.

    Raises:
        StudioError: a value is out of range, or the prompt lacks [V].
    """
    family = "mini" if options.model == "embedded" else "sdxl"
    for check in CHECKS:
        check(options)
    pictures = options.class_pictures
    if options.prior_weight > 0 and pictures is None:
        pictures = _CLASS_PICTURES[family]
    token_rate = options.token_rate
    if options.new_tokens and token_rate is None:
        token_rate = _TOKEN_RATES[family]
    if options.new_tokens:
        _check_new_tokens(options)
    steps = _STEPS[family] if options.steps is None else options.steps
    judge = judge_for(options.model, options.clip)
    options = dataclasses.replace(
        options,
        class_pictures=pictures,
        token_rate=token_rate,
        steps=steps,
        batch_size=_BATCH[family] if options.batch_size is None else options.batch_size,
        targets=options.targets or _TARGETS[family],
        schedule=options.schedule
        or ("constant" if options.optimizer == "schedule-free" else "cosine"),
        **recommended_watching(
            options, steps, why_unscored(options.model) if judge is None else None
        ),
    )
    check_resolved(options)
    check_encoder_steps(options, steps)
    processes.check_shares(filled(options.batch_size), options.accumulate)
    if PLACEHOLDER.lower() not in options.prompt.lower():
        raise StudioError(
            f"--prompt: expected {PLACEHOLDER} where the subject's name goes, as in \"a photo of a "
            f'{PLACEHOLDER} mug"; got {options.prompt!r}.'
        )
    trigger = options.trigger
    check_option(trigger is None or bool(trigger.strip()), "trigger", "a word", trigger)
    check_option(bool(options.methods), "method", "at least one method", options.method)
    check_option(
        len(set(options.methods)) == len(options.methods), "method", "each once", options.method
    )
    check_methods(options)
    check_run_name(options, options.run_name, "instance-dir")
    check_base_bits(options.methods, options.base_bits)
    if not any(getattr(options, part).train for part in PART_FIELDS):
        raise StudioError("every part is switched off (--unet.no-train ...); train at least one.")
    if options.text_encoder_steps is not None:
        encoders = options.text_encoder.train or options.text_encoder_2.train
        check_option(
            options.unet.train and encoders,
            "text_encoder_steps",
            "the UNet and a text encoder in training",
            options.text_encoder_steps,
        )
    return options


def _check_new_tokens(options: DreamboothOptions) -> None:
    """Refuse names that cannot be words, and new tokens that no prompt would contain."""
    if options.trigger is not None:
        token_words(options.trigger, options.new_tokens)
    if options.caption_dropout == 1:
        raise StudioError(
            "--new-tokens: --caption-dropout 1 drops every caption, so the tokens would learn "
            "nothing. Lower --caption-dropout, or leave --new-tokens out."
        )


def check_run_name(options: Any, name: str, otherwise: str) -> None:
    """Refuse a run name that is not the name of a folder in the output folder.

    Args:
        options: A trainer's options: `methods`, whose names are appended, and `name`.
        name: The run name, given or derived.
        otherwise: The option that it is derived from if it is not given.

    Raises:
        StudioError: the name is a path, is hidden or reserved, or is too long.
    """
    what = "--name" if options.name else f"--{otherwise} (give the runs a --name)"
    check_folder_name(name, what, [f"-{method}" for method in options.methods])


def check_methods(options: Any) -> None:
    """Refuse unknown methods, and options that no method of the run has.

    Args:
        options: A trainer's options: LearningOptions, TuningOptions, `method` and `methods`.
    """
    settings: set[str] = set()
    for method in options.methods:
        settings |= method_named(method).settings
    usual = {"outer": "svd", "start": "difference", "dropout": 0.0, "lora_plus_ratio": None}
    for name, value in usual.items():
        if getattr(options, name) != value and name not in settings:
            raise foreign_option_error(name.replace("_", "-"), name, options.method)
    check_optimizer(options.methods, options.optimizer)
    for method in options.methods if options.ema or options.optimizer == "schedule-free" else ():
        consequence, flag = METHODS[method].no_average, "ema" if options.ema else "optimizer"
        if consequence is not None:
            raise StudioError(
                f"--{flag} {getattr(options, flag)}: an average of the weights {consequence}. "
                f"Leave --{flag} or {method} out."
            )


def foreign_option_error(flag: str, setting: str, methods: str) -> StudioError:
    """Return the error for an option that the given methods do not have."""
    owners = [name for name, method in METHODS.items() if setting in method.settings]
    return StudioError(
        f"--{flag}: not an option of --method {methods}, only of {', '.join(owners)}. Leave it out."
    )
