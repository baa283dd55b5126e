"""The configuration of a NoRA adapter, as PEFT stores it in `adapter_config.json`."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from peft.config import PeftConfig
from peft.utils import PeftType
from peft.utils.other import get_pattern_key

from nora_studio.errors import StudioError
from nora_studio.nora.svd import FindOuter

STARTS = ("difference", "paper")
OUTERS = ("svd", "randomized", "activation")


@dataclass
class NoraConfig(PeftConfig):
    """Configuration of Nested Low-Rank Adaptation (NoRA), arXiv:2408.10280.

    Not Normalized LoRA, proposed for PEFT as `use_nora`. A saved config belongs to a file that
    holds every factor, so it is read back with `init_weights=False` and loading needs no SVD.
    """

    r: int = 8
    """Inner rank: width of the trained factors, 1 to `outer_rank`."""
    outer_rank: int = 64
    """Rank of the frozen factors, `r` to min(out_features, in_features) of every target."""
    alpha: float | None = None
    """The update is scaled by alpha / r; None means r, a scale of 1."""
    dropout: float = 0.0
    """Probability of dropping an input channel of the update while training, 0 to below 1."""
    start: str = "difference"
    """"difference": the update starts at exactly zero. "paper": the start is not subtracted, as the
    paper prints it, so the top `r` singular values start doubled."""
    outer: str = "svd"
    """How the frozen factors are computed: "svd" (exact), "randomized" (fast on large weights) or
    "activation" (weighted by the inputs in `mean_abs_inputs`)."""
    mean_abs_inputs: Mapping[str, torch.Tensor] | None = None
    """For outer="activation": module name -> mean |x| per input channel, (in_features,), as
    `record_mean_abs_inputs` records it. Used once, when the layers are created; never saved."""
    find_outer: FindOuter | None = field(default=None, repr=False, compare=False)
    """The function that computes the frozen factors; None is `svd.outer_factors`. An `OuterCache`
    keeps them on disk. Never saved."""
    target_modules: list[str] | set[str] | str | None = None
    """Names (whole or endings) of the linear layers to adapt, or one regular expression."""
    exclude_modules: list[str] | set[str] | str | None = None
    """Names or one regular expression of layers to leave alone."""
    modules_to_save: list[str] | None = None
    """Other modules that are trained in full and saved with the adapter."""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Module name or pattern -> inner rank, where it differs from `r`."""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Module name or pattern -> alpha, where it differs from `alpha`."""
    layers_to_transform: list[int] | int | None = None
    """Indices of the blocks to adapt; None means all."""
    layers_pattern: list[str] | str | None = None
    """Name of the list of blocks, where `layers_to_transform` alone is ambiguous."""
    init_weights: bool = True
    """False leaves all factors NaN until a checkpoint fills them, so that missing ones show up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["NORA"]
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        _check_rank("r", self.r)
        _check_rank("outer_rank", self.outer_rank)
        for where, rank in [("r", self.r), *self.rank_pattern.items()]:
            _check_rank(where, rank)
            if rank > self.outer_rank:
                raise StudioError(
                    f"inner rank must not exceed outer_rank ({self.outer_rank}); got {rank} for "
                    f"{where}. Lower the inner rank or raise outer_rank."
                )
        for where, alpha in [("alpha", self.alpha), *self.alpha_pattern.items()]:
            if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
                raise StudioError(f"alpha must be positive and finite; got {alpha} for {where}.")
        if not 0 <= self.dropout < 1:
            raise StudioError(f"dropout must be at least 0 and below 1; got {self.dropout}.")
        _check_choice("start", self.start, STARTS)
        _check_choice("outer", self.outer, OUTERS)
        if self.outer == "activation" and self.init_weights and not self.mean_abs_inputs:
            raise StudioError(
                'outer="activation" needs statistics of the inputs: pass mean_abs_inputs, '
                'module name -> mean |x| per input channel; or use outer="svd".'
            )
        if isinstance(self.target_modules, str) and (
            self.layers_to_transform is not None or self.layers_pattern is not None
        ):
            raise StudioError(
                "layers_to_transform and layers_pattern need a list of target_modules; got one "
                "regular expression. Select the layers in the expression instead."
            )

    def rank_of(self, name: str) -> int:
        """Return the inner rank of a layer: its `rank_pattern`, else `r`."""
        return self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), name), self.r)

    def alpha_of(self, name: str) -> float:
        """Return the alpha of a layer: its `alpha_pattern`, else `alpha`, else its inner rank."""
        key = get_pattern_key(list(self.alpha_pattern), name)
        alpha = self.alpha_pattern.get(key, self.alpha)
        return float(self.rank_of(name) if alpha is None else alpha)

    def to_dict(self) -> dict[str, Any]:
        """Return what `save_pretrained` writes: no tensors or functions, and names in order."""
        values = asdict(replace(self, mean_abs_inputs=None, find_outer=None, init_weights=False))
        del values["mean_abs_inputs"], values["find_outer"]
        for name in ("target_modules", "exclude_modules"):
            # A set's order differs from process to process.
            if isinstance(values[name], set):
                values[name] = sorted(values[name])
        return values


def _as_set(names: Iterable[str] | None) -> set[str] | str | None:
    return names if names is None or isinstance(names, str) else set(names)


def _check_rank(where: str, rank: object) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise StudioError(f"rank must be a whole number of 1 or more; got {rank!r} for {where}.")


def _check_choice(where: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise StudioError(f"{where} must be one of {', '.join(choices)}; got {value!r}.")
