"""The trainer's options of the optimizer: how far, how fast, by what rule."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from nora_studio.errors import StudioError
from nora_studio.options.groups.checks import (
    check_above_zero,
    check_not_negative,
    check_option,
    filled,
)

LIBRARIES = {
    "adamw8bit": "bitsandbytes",
    "lion": "bitsandbytes",
    "prodigy": "prodigyopt",
    "schedule-free": "schedulefree",
}
"""What an optimizer needs besides what is always installed."""


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How the adapter's weights move."""

    steps: int | None = None
    """Optimizer steps. None: recommended for the model."""
    batch_size: int | None = None
    """Photos a step, over all processes. None: recommended for the model."""
    accumulate: int = 1
    """Pieces that each process's photos of a step are worked through in, one after another: less
    memory, the same step. Divides them."""
    seed: int = 0
    """Of data order, noise, timesteps and adapter initialisation."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "schedule-free", "adafactor", "lion"] = (
        "adamw"
    )
    """adamw8bit and adafactor keep less state, lion half of it. prodigy finds the learning rate,
    from a tenth of the recommended one upwards: the rates given count only relative to the largest
    of them. schedule-free averages the weights
    instead of lowering the rate; what is drawn, measured and saved is the average."""
    schedule: Literal["constant", "linear", "cosine", "cosine-restarts", "polynomial"] | None = None
    """Learning-rate schedule after the warm-up. None: cosine; constant for schedule-free."""
    schedule_cycles: int | None = None
    """Times that cosine-restarts falls from the peak. None: 2."""
    schedule_power: float | None = None
    """Power of polynomial: 1 falls straight, more falls sooner. None: 2."""
    warmup_steps: int = 10
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """Decoupled weight decay: of a weight, this times the rate is taken away each step; where an
    adapter does not start at zero (NoRA, PiSSA, OLoRA), of its distance from the start."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm, per run."""
    ema: float | None = None
    """Decay of an exponential moving average of the trained weights, above 0 to below 1 (0.99 is
    usual here); it warms up, so that short runs forget their start. What is drawn, measured and
    saved is then the average. None: off."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How long the text encoders learn."""

    text_encoder_steps: int | None = None
    """Steps after which the text encoders' adapters stay as they are; the UNet goes on. None: all
    train to the end."""


def check_learning_options(options: LearningOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such, or the optimizer's library is missing.
    """
    above_zero = ("steps", "batch_size", "accumulate", "max_gradient_norm")
    check_above_zero(options, (*above_zero, "schedule_cycles", "schedule_power"))
    check_not_negative(options, ("warmup_steps", "weight_decay"))
    decay = options.ema
    check_option(decay is None or 0 < decay < 1, "ema", "above 0 to below 1", decay)
    _check_optimizer(options)
    for name, owner in (("schedule_cycles", "cosine-restarts"), ("schedule_power", "polynomial")):
        if getattr(options, name) is not None and options.schedule != owner:
            raise StudioError(
                f"--{name.replace('_', '-')}: a setting of --schedule {owner}; got it with "
                f"{options.schedule or 'the default schedule'}."
            )


def _check_optimizer(options: LearningOptions) -> None:
    library = LIBRARIES.get(options.optimizer)
    if library is not None and importlib.util.find_spec(library) is None:
        raise StudioError(
            f"--optimizer {options.optimizer}: needs {library}, which is not installed. Run `pip "
            "install 'nora-studio[optimizers]'`."
        )
    if options.optimizer != "schedule-free":
        return
    if options.schedule not in (None, "constant"):
        raise StudioError(
            f"--schedule {options.schedule}: --optimizer schedule-free has no schedule; it "
            "averages instead. Leave --schedule out."
        )
    if options.ema is not None:
        raise StudioError(
            f"--ema {options.ema}: --optimizer schedule-free averages its weights already. Leave "
            "--ema out."
        )


def check_encoder_options(options: EncoderOptions) -> None:
    """Refuse values out of range.

    Raises:
        StudioError: one is such.
    """
    check_above_zero(options, ("text_encoder_steps",))


def check_encoder_steps(options: EncoderOptions, steps: int) -> None:
    """Refuse an end of the text encoders' training that lies past the run's.

    Raises:
        StudioError: it does.
    """
    until = options.text_encoder_steps
    if until is not None:
        check_option(until < steps, "text_encoder_steps", f"fewer than the {steps} steps", until)


def check_resolved(options: LearningOptions) -> None:
    """Refuse what does not fit the run's length, which is known by now.

    Raises:
        StudioError: an option reaches past the end of the run.
    """
    steps, warmup = filled(options.steps), options.warmup_steps
    if options.schedule == "polynomial":
        check_option(warmup < steps, "warmup_steps", f"fewer than the {steps} steps", warmup)
