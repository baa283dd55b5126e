"""Base class of this package's tuner layers: a frozen linear layer with low-rank updates.

Trained factors are float32 on a half-precision base, and have the base's dtype where that is wider.
Frozen factors that are the bulk of an adapter keep the base's dtype; activations keep the model's.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nora_studio.adapters.tuners.config import TunerConfig
from nora_studio.errors import StudioError
from nora_studio.nora.additive import BASE_DTYPES, AdditiveLayer, refuse_packed_attention, widen


class LowRankLinear(nn.Module, AdditiveLayer):
    """A frozen `nn.Linear` with any number of adapters whose update is a product `up @ down`."""

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        """Wrap a layer, without an adapter yet.

        Args:
            base_layer: The `nn.Linear` to adapt.
            name: The layer's name in its model, for messages.

        Raises:
            StudioError: A layer of this kind cannot be adapted.
        """
        super().__init__()
        self.base_layer = _check_base(base_layer, name)
        self.in_features = self.base_layer.in_features
        self.out_features = self.base_layer.out_features
        self.low_rank_dropout = nn.ModuleDict()
        self.r: dict[str, int] = {}
        self.alpha: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True

    @abstractmethod
    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return the update's factors, without scale: (out_features, k) and (k, in_features)."""

    def register(self, adapter_name: str, config: TunerConfig, name: str) -> None:
        """Store an adapter's settings; a subclass's `update_layer` creates its factors.

        Raises:
            StudioError: The rank does not fit the layer.
        """
        limit = min(self.in_features, self.out_features)
        if config.r > limit:
            raise StudioError(
                f"rank must be 1-{limit} for {name} ({self.out_features}x{self.in_features}); "
                f"got {config.r}. Lower rank or narrow the targets."
            )
        dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.low_rank_dropout[adapter_name] = dropout
        self.r[adapter_name] = config.r
        self.alpha[adapter_name] = float(config.r if config.alpha is None else config.alpha)
        self.scaling[adapter_name] = self.alpha[adapter_name] / config.r

    def zeros(self, *shape: int) -> nn.Parameter:
        """Return a trained tensor of zeros on the base weight's device, float32 or wider."""
        weight = self.get_base_weight()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return nn.Parameter(torch.zeros(shape, dtype=dtype, device=weight.device))

    def nan_tensor(self, *shape: int, like: Tensor) -> Tensor:
        """Return a tensor of NaN for a checkpoint to fill, so that missing ones show up."""
        return torch.full(shape, math.nan, dtype=like.dtype, device=like.device)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer and the active adapters: (..., in_features) -> (..., out_features).

        Other arguments are passed to the base layer.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = self.base_layer.weight.dtype
        for adapter_name in self.active_adapters:
            if adapter_name in self.r:
                up, down = self.factors(adapter_name)
                kept = self.low_rank_dropout[adapter_name](self._cast_input_dtype(x, dtype))
                update = F.linear(F.linear(kept, down.to(kept.dtype)), up.to(kept.dtype))
                result = result + (update * self.scaling[adapter_name]).to(result.dtype)
        return result

    @torch.no_grad()
    def lora_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Write the update as a plain LoRA, exactly, with the scale folded in.

        Returns:
            (out_features, k) and (k, in_features), float32 or wider; their product is the update.
        """
        up, down = (widen(factor) for factor in self.factors(adapter_name))
        return up * self.scaling[adapter_name], down

    @torch.no_grad()
    def get_delta_weight(self, adapter_name: str) -> Tensor:  # (out_features, in_features)
        """Compute the whole update of the weight, scale included, in float32 or wider."""
        up, down = self.lora_factors(adapter_name)
        return up @ down

    @property
    def alphas(self) -> dict[str, float]:
        """Each adapter's alpha."""
        return self.alpha


def _check_base(base_layer: nn.Module, name: str) -> nn.Linear:
    refuse_packed_attention(base_layer, name)
    if not isinstance(base_layer, nn.Linear) or base_layer.weight.dtype not in BASE_DTYPES:
        weight = getattr(base_layer, "weight", None)
        kind = f"{type(base_layer).__name__} of {getattr(weight, 'dtype', 'no dtype')}"
        raise StudioError(
            f"this method adapts nn.Linear layers in float64, float32, bfloat16 or float16; {name} "
            f"is a {kind}. Narrow the targets."
        )
    return base_layer
