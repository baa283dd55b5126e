"""The trainer's options of the adapter: which layers, how large, started how."""

from dataclasses import dataclass
from typing import Literal

from nora_studio.options.groups.checks import check_option


@dataclass(frozen=True)
class PartOptions:
    """One of SDXL's three adapted modules. None means the method's recommended value."""

    train: bool = True
    """Whether this part gets an adapter at all."""
    rank: int | None = None
    """Rank of the trained factors, at least 1; `nora-studio methods` says what each counts."""
    outer_rank: int | None = None
    """NoRA's frozen outer rank, at least `rank`. Only NoRA has one."""
    alpha: float | None = None
    """The adapter's scale is alpha / rank. None: the method's usual scale, 1 for nearly all."""
    learning_rate: float | None = None
    """Peak learning rate of this part."""


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """Where the adapter goes, and its size and rate in each part."""

    targets: Literal["attention", "attention+feedforward"] | None = None
    """Which linear layers are adapted. None: attention; feed-forward too on the embedded model."""
    unet: PartOptions = PartOptions()
    text_encoder: PartOptions = PartOptions()
    text_encoder_2: PartOptions = PartOptions()


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """What is the same in every part of a model."""

    outer: Literal["svd", "randomized", "activation"] = "svd"
    """How NoRA finds its outer factors: exactly, faster, or along the first batch's activations."""
    start: Literal["difference", "paper"] = "difference"
    """NoRA's start: exactly the base, or as the paper prints it, top directions doubled."""
    override: tuple[str, ...] = ()
    """Options for one twin alone: METHOD.PART.OPTION=VALUE, such as lora.unet.rank=16."""
    dropout: float = 0.0
    """Dropout on the adapters' input, 0 to below 1."""
    lora_plus_ratio: float | None = None
    """LoRA+: how many times faster the output-side factors learn. None: the paper's 16."""


def check_adapter_options(options: TuningOptions) -> None:
    """Refuse values out of range.

    Raises:
        StudioError: one is such.
    """
    check_option(0 <= options.dropout < 1, "dropout", "0 to below 1", options.dropout)
    ratio = options.lora_plus_ratio
    check_option(ratio is None or ratio >= 1, "lora_plus_ratio", "1 or more", ratio)
