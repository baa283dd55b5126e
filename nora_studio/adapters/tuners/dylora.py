"""DyLoRA (arXiv:2210.07558): one training gives a LoRA that works at every rank up to its own.

Each training step samples a rank b from 1..r, the same for all layers, and trains only the first b
directions, scaled by alpha / b. (The paper also tries updating only direction b, "frozen"; this is
the plain form, which updates all of the first b and is better there.) A trained adapter can be used
at any rank up to r: `set_inference_rank`.
"""

import math

import torch
from torch import Tensor, nn

from nora_studio.adapters.tuners.config import DyloraConfig
from nora_studio.adapters.tuners.layer import LowRankLinear
from nora_studio.adapters.tuners.model import LowRankModel
from nora_studio.errors import StudioError


class DyloraLinear(LowRankLinear):
    """A frozen linear layer with DyLoRA updates."""

    adapter_layer_names = ("dylora_up", "dylora_down")
    other_param_names = (
        "low_rank_dropout", "r", "alpha", "scaling", "sampled_rank", "inference_rank"
    )  # fmt: skip

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__(base_layer, name)
        self.dylora_up = nn.ParameterDict()  # (out_features, rank)
        self.dylora_down = nn.ParameterDict()  # (rank, in_features)
        self.sampled_rank: dict[str, int] = {}
        """The rank used in training mode: that of the step."""
        self.inference_rank: dict[str, int] = {}
        """The rank used in evaluation mode."""

    def update_layer(self, adapter_name: str, config: DyloraConfig, name: str) -> None:
        """Create an adapter's factors as LoRA does: `down` at random, `up` at zero."""
        self.dylora_up[adapter_name] = self.zeros(self.out_features, config.r)
        self.dylora_down[adapter_name] = self.zeros(config.r, self.in_features)
        self.sampled_rank[adapter_name] = self.inference_rank[adapter_name] = config.r
        if config.init_weights and not self.dylora_down[adapter_name].is_meta:
            nn.init.kaiming_uniform_(self.dylora_down[adapter_name], a=math.sqrt(5))

    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return the first b directions: (out_features, b) and (b, in_features)."""
        rank = (self.sampled_rank if self.training else self.inference_rank)[adapter_name]
        up, down = self.dylora_up[adapter_name], self.dylora_down[adapter_name]
        if rank == self.r[adapter_name]:
            return up, down
        # Makes the scale alpha / b instead of the alpha / r that the layer applies.
        return up[:, :rank] * (self.r[adapter_name] / rank), down[:rank]


class DyloraModel(LowRankModel):
    """The PEFT tuner of DyLoRA."""

    prefix = "dylora_"
    tuner_layer_cls = DyloraLinear


def sample_rank(
    model: nn.Module, generator: torch.Generator, adapter_name: str = "default"
) -> int | None:
    """Sample the rank of the next training step, uniformly over 1..r and the same for all layers.

    Args:
        model: With DyLoRA adapters.
        generator: On the CPU. Save its state in checkpoints, so that resuming is exact.

    Returns:
        The rank, or None if no layer carries the adapter.
    """
    layers = _layers_of(model, adapter_name)
    if not layers:
        return None
    ranks = max(layer.r[adapter_name] for layer in layers)
    rank = int(torch.randint(1, ranks + 1, (), generator=generator))
    for layer in layers:
        layer.sampled_rank[adapter_name] = min(rank, layer.r[adapter_name])
    return rank


def set_inference_rank(model: nn.Module, rank: int, adapter_name: str = "default") -> None:
    """Set the rank at which a trained DyLoRA is used in evaluation mode, up to its own.

    Raises:
        StudioError: No layer carries the adapter, or the rank is larger than its own.
    """
    layers = _layers_of(model, adapter_name)
    limit = min((layer.r[adapter_name] for layer in layers), default=0)
    if not 1 <= rank <= limit:
        raise StudioError(
            f"the rank of a DyLoRA must be 1 to its own, {limit}; got {rank}."
            if layers
            else f"the model carries no DyLoRA adapter named {adapter_name!r}."
        )
    for layer in layers:
        layer.inference_rank[adapter_name] = rank


def _layers_of(model: nn.Module, adapter_name: str) -> list[DyloraLinear]:
    return [
        module
        for module in model.modules()
        if isinstance(module, DyloraLinear) and adapter_name in module.r
    ]
