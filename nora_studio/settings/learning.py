"""The trainer's options of the optimizer: how far, how fast, by what rule."""

from dataclasses import dataclass
from typing import Literal

from nora_studio.settings.checks import check_above_zero, check_not_negative, check_option


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How the adapter's weights move."""

    steps: int | None = None
    """Optimizer steps. None: recommended for the model."""
    batch_size: int | None = None
    """Photos a step, over all processes. None: recommended for the model."""
    seed: int = 0
    """Of data order, noise, timesteps and adapter initialisation."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning-rate schedule after the warm-up."""
    warmup_steps: int = 10
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """AdamW's decoupled weight decay."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm, per run."""
    ema: float | None = None
    """Decay of an exponential moving average of the trained weights, above 0 to below 1 (0.99 is
    usual here); it warms up, so that short runs forget their start. What is drawn, measured and
    saved is then the average. None: off."""
    dropout: float = 0.0
    """Dropout on the adapters' input, 0 to below 1."""
    lora_plus_ratio: float | None = None
    """LoRA+: how many times faster the output-side factors learn. None: the paper's 16."""


def check_learning_options(options: LearningOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such.
    """
    check_above_zero(options, ("steps", "batch_size", "max_gradient_norm"))
    check_not_negative(options, ("warmup_steps", "weight_decay"))
    check_option(0 <= options.dropout < 1, "dropout", "0 to below 1", options.dropout)
    decay = options.ema
    check_option(decay is None or 0 < decay < 1, "ema", "above 0 to below 1", decay)
    ratio = options.lora_plus_ratio
    check_option(ratio is None or ratio >= 1, "lora_plus_ratio", "1 or more", ratio)
