"""Options of the adapter: its layers, ranks, rates and initialisation."""

from dataclasses import dataclass
from typing import Literal

from nora_studio.options.groups.checks import check_option


@dataclass(frozen=True)
class PartOptions:
    """Options of one part of the model. None: the method's recommended value."""

    train: bool = True
    """Adapt this part."""
    rank: int | None = None
    """Rank of the trained factors, at least 1; see `nora-studio methods` for each method's."""
    outer_rank: int | None = None
    """Rank of NoRA's frozen outer factors, at least `rank`. Only for NoRA."""
    alpha: float | None = None
    """The adapter's scale is alpha / rank. None: the method's usual scale, 1 for nearly all."""
    learning_rate: float | None = None
    """Peak learning rate of this part."""


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """The adapted layers, and each part's rank and learning rate."""

    targets: Literal["attention", "attention+feedforward"] | None = None
    """Linear layers to adapt. None: attention; on the embedded model also feed-forward."""
    unet: PartOptions = PartOptions()
    text_encoder: PartOptions = PartOptions()
    text_encoder_2: PartOptions = PartOptions()


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """Adapter options for all parts of the model."""

    outer: Literal["svd", "randomized", "activation"] = "svd"
    """NoRA's outer factors: exact SVD, randomised SVD (faster), or SVD of the weight scaled by the
    first batch's activations."""
    start: Literal["difference", "paper"] = "difference"
    """NoRA's initialisation: equal to the base, or as in the paper, with the top singular
    directions doubled."""
    override: tuple[str, ...] = ()
    """Options for one twin only: METHOD.PART.OPTION=VALUE, such as lora.unet.rank=16."""
    dropout: float = 0.0
    """Dropout on the adapters' input, at least 0 and below 1."""
    lora_plus_ratio: float | None = None
    """LoRA+: ratio of the learning rates of the output-side and input-side factors. None: the
    paper's 16."""


def check_adapter_options(options: TuningOptions) -> None:
    """Refuse values out of range.

    Raises:
        StudioError: a value is out of range.
    """
    check_option(
        0 <= options.dropout < 1, "dropout", "a value of at least 0 and below 1", options.dropout
    )
    ratio = options.lora_plus_ratio
    check_option(ratio is None or ratio >= 1, "lora_plus_ratio", "1 or more", ratio)
