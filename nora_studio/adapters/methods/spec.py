"""The record type of a method, and the specification of one adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from nora_studio.adapters.methods.step_rules import StepRules, StepTensors, plain_step_rules
from nora_studio.errors import StudioError

if TYPE_CHECKING:
    from peft.config import PeftConfig
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from nora_studio.nora.svd import FindOuter

Shape = tuple[int, int]
"""(out_features, in_features) of a linear layer."""


@dataclass(frozen=True)
class AdapterSpec:
    """The specification of an adapter, for any method."""

    method: str
    """A name in `METHODS`."""
    rank: int
    """Size of the trained factors, 1 or more; the method's record says what it counts."""
    alpha: float | None = None
    """The update is scaled by alpha / rank (rslora: alpha / sqrt(rank)). None: the method's usual
    scale, 1 for all but rslora (sqrt(rank)) and randlora (20)."""
    dropout: float = 0.0
    """Probability of dropping an input channel of the update while training, 0 to below 1."""
    outer_rank: int | None = None
    """NoRA: rank of the frozen factors; None means 64."""
    start: str = "difference"
    """NoRA: "difference" starts at exactly zero; "paper" as printed, for ablations."""
    outer: str = "svd"
    """NoRA: "svd" (exact), "randomized" (fast on large weights) or "activation" (weighted by the
    inputs in `mean_abs_inputs`)."""
    mean_abs_inputs: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)
    """NoRA with outer="activation": layer -> mean |x| per input channel."""
    find_outer: FindOuter | None = field(default=None, repr=False, compare=False)
    """NoRA: the function that computes the frozen factors, such as an `OuterCache`, which keeps
    them on disk. None: `nora.svd.outer_factors`."""
    total_steps: int | None = None
    """AdaLoRA: steps of the whole run, over which it allocates ranks; required there."""

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise StudioError(f"rank must be a whole number of 1 or more; got {self.rank!r}.")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise StudioError(f"alpha must be positive and finite; got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise StudioError(f"dropout must be at least 0 and below 1; got {self.dropout}.")

    def settings(self) -> list[str]:
        """Return the names of the settings, beyond method and rank, that are not the default."""
        return [
            own.name
            for own in fields(self)
            if own.name not in ("method", "rank") and getattr(self, own.name) != own.default
        ]


def rank_fits_the_smaller_side(spec: AdapterSpec, name: str, shape: Shape) -> None:
    """Refuse a rank larger than a layer's smaller side.

    Raises:
        StudioError: it is larger.
    """
    limit = min(shape)
    if spec.rank > limit:
        raise StudioError(
            f"rank must be 1-{limit} for {name} ({shape[0]}x{shape[1]}); "
            f"got {spec.rank}. Lower rank or narrow the targets."
        )


@dataclass(frozen=True)
class TrainingDefaults:
    """A method's default rank and learning rates on an SDXL."""

    rank: int
    """As the method counts it."""
    unet: float
    """Learning rate of the UNet's adapter."""
    text: float
    """Learning rate of each text encoder's."""
    source: str = "starting point"
    """Where the numbers come from."""
    outer_rank: int | None = None
    """For methods that have one; NoRA alone so far."""
    alpha: float | None = None
    """The scale is alpha / rank; None: the method's usual one."""

    def learning_rate(self, part: str) -> float:
        """Return the rate of "unet", "text_encoder" or "text_encoder_2"."""
        return self.unet if part == "unet" else self.text


@dataclass(frozen=True)
class UniformDefaults:
    """A method's default rank and learning rates where all parts of a model have the same rate."""

    rank: int
    """As the method counts it."""
    rates: tuple[float, ...]
    """Learning rates worth trying; the first is the default."""
    alpha: float | None = None
    """The scale is alpha / rank (rslora: alpha / sqrt(rank)); None: the method's usual one."""
    outer_rank: int | None = None
    """For methods that have one; NoRA alone so far."""
    source: str = "starting point"
    """Where the numbers come from."""

    @property
    def rate(self) -> float:
        """The default learning rate."""
        return self.rates[0]

    def learning_rate(self, part: str) -> float:
        """Return the default rate, whatever the part."""
        return self.rate


@dataclass(frozen=True)
class Tuner:
    """The facts about a PEFT tuner that its interface does not state."""

    kind: str = "LORA"
    """The `PeftType` of its configurations."""
    shared: tuple[str, ...] = ()
    """Names of the state that its layers share, on the tuner and on each layer."""
    scaling: Callable[[Any, float], float] | None = None
    """(configuration, strength) -> a layer's scaling, where PEFT's own setter is wrong."""
    is_sum: bool = True
    """Whether it adds its change to the layer's output, so that the change can be scaled."""


@dataclass(frozen=True)
class Method:
    """The record of one way to adapt a model: all that the rest of the project needs to know."""

    summary: str
    """One line for menus and help."""
    paper: str
    """arXiv identifier."""
    rank: str
    """What `rank` counts."""
    origin: str
    """Whose implementation: "PEFT" or "ours"."""
    build: Callable[[AdapterSpec, list[str], list[Shape]], PeftConfig]
    """(spec, targets, shapes of the targeted layers) -> the method's PEFT configuration, with its
    usual scale where the spec has none."""
    sdxl: TrainingDefaults
    """For every SDXL but the embedded one."""
    embedded: TrainingDefaults
    """For the SDXL that comes with the project."""
    clip: UniformDefaults | None = None
    """For every CLIP but the embedded one; None: not tried there."""
    embedded_clip: UniformDefaults | None = None
    """For the CLIP that comes with the project; None: not tried there."""
    llama: UniformDefaults | None = None
    """For every language model but the embedded one. None: `sdxl`'s rank, and the protocol's rate
    times the ratio of `sdxl`'s rate to LoRA's."""
    embedded_llama: UniformDefaults | None = None
    """For the language model that comes with the project. None: as `llama`, with smaller limits."""
    title: str | None = None
    """Its name in text; None: the name that `--method` takes."""
    settings: frozenset[str] = frozenset({"alpha", "dropout"})
    """Settings that it has beyond the rank, of an `AdapterSpec` or of its optimizer
    ("lora_plus_ratio"). With "total_steps" it plans over the run, which then cannot be extended."""
    several: bool = True
    """Whether a model may carry more than one adapter of it."""
    bits: frozenset[int] = frozenset()
    """Bits of the quantised bases that it works on. Other methods read or replace a layer's weight
    as it is stored, or PEFT cannot load their files there without a second copy in memory."""
    both_factors: bool = False
    """Whether it trains rank * (inputs + outputs) numbers in every layer."""
    decays_to_start: frozenset[str] = frozenset()
    """Names of trained weights whose neutral value is their start and not zero: weight decay pulls
    these towards their start, and all others towards zero."""
    no_average: str | None = None
    """What averaging its weights over the steps would do, to complete "an average of the weights";
    None: they may be averaged."""
    frozen: tuple[str, ...] = ()
    """Names of the tuner's factors that stay as initialised."""
    fits: Callable[[AdapterSpec, str, Shape], None] = rank_fits_the_smaller_side
    """(spec, layer's name, layer's shape): raises a StudioError if the rank does not fit."""
    after_attach: Callable[[nn.Module, str], None] | None = None
    """(model, adapter name): called once the adapter is on the model."""
    steps: Callable[[dict[str, nn.Module], int], StepRules] = plain_step_rules
    """(adapted modules by part, seed of its random numbers) -> what it does around each step."""
    step_tensors: Callable[[Iterable[nn.Module]], StepTensors] | None = None
    """Adapted modules, as they are trained from now on -> what its layers share in each step; None:
    every layer computes by itself."""
    eager: str | None = None
    """Why a CUDA graph of one step cannot replay the others; None: it can."""
    groups: Callable[[str, nn.Module, float, float, float], list[dict[str, Any]]] | None = None
    """(part, module, rate, weight decay, lora_plus_ratio) -> an optimizer's parameter groups; the
    first is named after the part. None: one group with all trained weights."""
    optimizer: Callable[..., Optimizer] | None = None
    """(parts, rates, weight decay, extra groups) -> an optimizer of its own, which `--optimizer`
    cannot replace."""
    tuner: Tuner = Tuner()
    """The PEFT tuner that `build` configures."""
