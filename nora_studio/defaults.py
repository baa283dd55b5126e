"""Fill in what suits the model, and refuse early what cannot be."""

import dataclasses
from typing import Any

from nora_studio.config import PART_FIELDS, DreamboothOptions
from nora_studio.data.options import check_photo_options
from nora_studio.errors import StudioError
from nora_studio.methods import METHODS, method_named
from nora_studio.prompts import PLACEHOLDER

_STEPS = {"sdxl": 500, "mini": 120}
_TARGETS: dict[str, Any] = {"sdxl": "attention", "mini": "attention+feedforward"}
_BATCH = {"sdxl": 4, "mini": 3}


def with_recommended(options: DreamboothOptions) -> DreamboothOptions:
    """Fill in the steps and the batch that suit the model, and check what can be checked early.

    Raises:
        StudioError: a value is out of its range, or the prompt lacks [V].
    """
    family = "mini" if options.model == "embedded" else "sdxl"
    options = dataclasses.replace(
        options,
        steps=_STEPS[family] if options.steps is None else options.steps,
        batch_size=_BATCH[family] if options.batch_size is None else options.batch_size,
        targets=options.targets or _TARGETS[family],
    )
    if PLACEHOLDER.lower() not in options.prompt.lower():
        raise StudioError(
            f"--prompt: expected {PLACEHOLDER} where the subject's name goes, as in \"a photo of a "
            f'{PLACEHOLDER} mug"; got {options.prompt!r}.'
        )
    positive = ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints",
                "sample_steps", "max_gradient_norm")  # fmt: skip
    for name in positive:
        check_option(getattr(options, name) > 0, name, "a value above 0", getattr(options, name))
    for name in ("sample_every", "warmup_steps", "weight_decay", "guidance"):
        check_option(getattr(options, name) >= 0, name, "0 or more", getattr(options, name))
    check_option(0 <= options.dropout < 1, "dropout", "0 to below 1", options.dropout)
    options = _with_loss(options, family)
    check_option(bool(options.methods), "method", "at least one method", options.method)
    check_option(
        len(set(options.methods)) == len(options.methods), "method", "each once", options.method
    )
    check_photo_options(options)
    _check_methods(options)
    if not any(getattr(options, part).train for part in PART_FIELDS):
        raise StudioError("every part is switched off (--unet.no-train ...); train at least one.")
    return options


def _check_methods(options: DreamboothOptions) -> None:
    """Refuse unknown methods, and options that no method of the run has."""
    settings: set[str] = set()
    for method in options.methods:
        settings |= method_named(method).settings
    if "lora+" in options.methods:
        settings.add("lora_plus_ratio")
    usual = {"outer": "svd", "start": "difference", "dropout": 0.0, "lora_plus_ratio": None}
    for name, value in usual.items():
        if getattr(options, name) != value and name not in settings:
            raise foreign_option(name.replace("_", "-"), name, options.method)
    ratio = options.lora_plus_ratio
    check_option(ratio is None or ratio >= 1, "lora_plus_ratio", "1 or more", ratio)


def _with_loss(options: DreamboothOptions, family: str) -> DreamboothOptions:
    """Fill in and check what belongs to the loss."""
    gamma = options.snr_gamma
    check_option(gamma is None or gamma > 0, "snr_gamma", "a value above 0", gamma)
    if gamma is not None and options.weighting != "min-snr":
        raise StudioError(
            f"--snr-gamma: a setting of --weighting min-snr; got it with {options.weighting!r}."
        )
    for name in ("noise_offset", "prior_weight", "hold_out", "evaluate_every"):
        check_option(getattr(options, name) >= 0, name, "0 or more", getattr(options, name))
    if options.prior_weight == 0:
        for name in ("class_prompt", "class_pictures", "class_dir"):
            if getattr(options, name) is not None:
                raise StudioError(
                    f"--{name.replace('_', '-')}: a setting of prior preservation, which is off. "
                    "Set --prior-weight, 1 for example."
                )
        return options
    count = options.class_pictures or {"mini": 20, "sdxl": 100}[family]
    check_option(count > 0, "class_pictures", "a value above 0", count)
    return dataclasses.replace(options, class_pictures=count)


def foreign_option(flag: str, setting: str, methods: str) -> StudioError:
    """The error of an option that the given methods do not have."""
    owners = [name for name, method in METHODS.items() if setting in method.settings] or ["lora+"]
    return StudioError(
        f"--{flag}: no option of --method {methods}, but of {', '.join(owners)}. Leave it out."
    )


def check_option(good: bool, name: str, expected: str, value: object) -> None:
    """Raise a StudioError that names the flag, unless the value is good."""
    if not good:
        flag = name.replace("_", "-")
        raise StudioError(f"--{flag}: expected {expected}; got {value!r}.")
