"""An adapter as a person asks for it, and what the table says of a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft.config import PeftConfig
    from torch import Tensor

from nora_studio.errors import StudioError

Shape = tuple[int, int]
"""(out_features, in_features) of a linear layer."""


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter as a person asks for it, whatever the method."""

    method: str
    """A name in `METHODS`."""
    rank: int
    """Size of the trained factors; the table says what it counts. 1 or more."""
    alpha: float | None = None
    """The update is scaled by alpha / rank (rslora: alpha / sqrt(rank)). None: the method's usual
    scale, 1 for all but rslora (sqrt(rank)) and randlora (20)."""
    dropout: float = 0.0
    """Probability of dropping an input channel of the update while training, 0 to below 1."""
    outer_rank: int | None = None
    """NoRA: rank of the frozen factors; None means 64."""
    start: str = "difference"
    """NoRA: "difference" begins at exactly zero; "paper" as printed, for ablations."""
    outer: str = "svd"
    """NoRA: "svd" (exact), "randomized" (fast on large weights) or "activation" (along the inputs
    in `mean_abs_inputs`)."""
    mean_abs_inputs: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)
    """NoRA with outer="activation": layer -> mean |x| per input channel."""
    total_steps: int | None = None
    """AdaLoRA: steps of the whole run, over which it allots ranks; it needs them."""

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise StudioError(f"rank must be a whole number of 1 or more; got {self.rank!r}.")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise StudioError(f"alpha must be positive and finite; got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise StudioError(f"dropout must be 0 to below 1; got {self.dropout}.")

    def settings(self) -> list[str]:
        """Names of the settings that were made, beyond method and rank."""
        return [
            own.name
            for own in fields(self)
            if own.name not in ("method", "rank") and getattr(self, own.name) != own.default
        ]


def rank_fits_the_smaller_side(spec: AdapterSpec, name: str, shape: Shape) -> None:
    """Refuse a rank beyond a layer's own.

    Raises:
        StudioError: it is.
    """
    limit = min(shape)
    if spec.rank > limit:
        raise StudioError(
            f"rank must be 1-{limit} for {name} ({shape[0]}x{shape[1]}); "
            f"got {spec.rank}. Lower rank or narrow the targets."
        )


@dataclass(frozen=True)
class Method:
    """One way to adapt a model."""

    summary: str
    """One line for menus and help."""
    paper: str
    """arXiv identifier."""
    rank: str
    """What `rank` counts."""
    origin: str
    """Whose implementation: "PEFT" or "ours"."""
    build: Callable[[AdapterSpec, list[str], list[Shape]], PeftConfig]
    """(spec, targets, shapes of the targeted layers) -> the method's PEFT configuration."""
    settings: frozenset[str] = frozenset({"alpha", "dropout"})
    """Settings of an `AdapterSpec` that it has, beyond the rank."""
    several: bool = True
    """Whether a model may carry more than one adapter of it."""
    decays_to_start: frozenset[str] = frozenset()
    """Names of trained weights that do not start at an update of zero: weight decay pulls these
    towards their start, and all others towards zero."""
    fits: Callable[[AdapterSpec, str, Shape], None] = rank_fits_the_smaller_side
    """Raises a StudioError where the rank does not fit a layer of that name and shape."""
