"""Options of the optimizer: steps, batch size, learning-rate schedule and averaging."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from nora_studio.errors import StudioError
from nora_studio.options.groups.checks import (
    check_above_zero,
    check_not_negative,
    check_option,
    filled,
    without_effect,
)

LIBRARIES = {
    "adamw8bit": "bitsandbytes",
    "lion": "bitsandbytes",
    "prodigy": "prodigyopt",
    "schedule-free": "schedulefree",
}
"""Optional library that an optimizer needs."""


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """Optimizer and learning rate."""

    steps: int | None = None
    """Optimizer steps. None: recommended for the model."""
    batch_size: int | None = None
    """Photos per step, over all processes. None: recommended for the model."""
    accumulate: int = 1
    """Micro-batches per step, which each process runs one after the other: less memory, the same
    step. Must divide the process's photos per step."""
    seed: int = 0
    """Seed of data order, noise, timesteps and adapter initialisation."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy", "schedule-free", "adafactor", "lion"] = (
        "adamw"
    )
    """adamw8bit and adafactor keep less state, lion half of it. prodigy estimates the learning
    rate, from a tenth of the recommended one upwards: of the given rates, only the ratios matter.
    schedule-free averages the weights instead of lowering the rate; samples, measurements and
    saved adapters use the average."""
    schedule: Literal["constant", "linear", "cosine", "cosine-restarts", "polynomial"] | None = None
    """Learning-rate schedule after the warm-up. None: cosine; constant for schedule-free."""
    schedule_cycles: int | None = None
    """Number of cosine-restarts' cycles, each from the peak to zero. None: 2."""
    schedule_power: float | None = None
    """Exponent of polynomial: 1 is linear, a larger one lowers the rate sooner. None: 2."""
    warmup_steps: int = 10
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """Decoupled weight decay: each step subtracts this times the learning rate times the weight, or
    times its distance from the start if the adapter does not start at zero (NoRA, PiSSA, OLoRA)."""
    max_gradient_norm: float = 1.0
    """Norm that each run's gradients are clipped to."""
    ema: float | None = None
    """Decay of an exponential moving average of the trained weights, between 0 and 1 (0.99 is usual
    here), with a warm-up, so that short runs forget their start. Samples, measurements and saved
    adapters then use the average. None: off."""
    capture: bool = True
    """On one GPU, record a step of each image size as a CUDA graph and replay it: the same kernels
    without waiting for the CPU, several times faster."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Training of the text encoders."""

    text_encoder_steps: int | None = None
    """Steps after which the text encoders' adapters are frozen, while the UNet's trains on. None:
    never."""


def check_learning_options(options: LearningOptions) -> None:
    """Refuse values out of range, and options without effect.

    Raises:
        StudioError: an option is refused, or the optimizer's library is missing.
    """
    above_zero = ("steps", "batch_size", "accumulate", "max_gradient_norm")
    check_above_zero(options, (*above_zero, "schedule_cycles", "schedule_power"))
    check_not_negative(options, ("warmup_steps", "weight_decay"))
    decay = options.ema
    check_option(decay is None or 0 < decay < 1, "ema", "a value above 0 and below 1", decay)
    _check_optimizer(options)
    for name, owner in (("schedule_cycles", "cosine-restarts"), ("schedule_power", "polynomial")):
        if getattr(options, name) is not None and options.schedule != owner:
            raise without_effect(name, f"--schedule {owner}")


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
        StudioError: a value is out of range.
    """
    check_above_zero(options, ("text_encoder_steps",))


def check_encoder_steps(options: EncoderOptions, steps: int) -> None:
    """Refuse to freeze the text encoders after the end of the run.

    Raises:
        StudioError: `text_encoder_steps` is not below the run's steps.
    """
    until = options.text_encoder_steps
    if until is not None:
        check_option(until < steps, "text_encoder_steps", f"fewer than the {steps} steps", until)


def check_resolved(options: LearningOptions) -> None:
    """Refuse options that do not fit the run's number of steps.

    Raises:
        StudioError: an option reaches past the end of the run.
    """
    steps, warmup = filled(options.steps), options.warmup_steps
    if options.schedule == "polynomial":
        check_option(warmup < steps, "warmup_steps", f"fewer than the {steps} steps", warmup)
