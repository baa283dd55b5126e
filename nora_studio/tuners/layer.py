"""What the tuner layers of this room share: a frozen linear layer with updates beside it.

Trained factors are float32 beside a half-precision base (wider where the base is); frozen factors
that are the bulk of an adapter keep the base's dtype; activations stay in the dtype of the model.
"""

import math
import warnings
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from nora_studio.errors import StudioError
from nora_studio.tuners.config import TunerConfig

BASE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class LowRankLinear(nn.Module, BaseTunerLayer):
    """A frozen `nn.Linear` with any number of adapters whose update is a product `up @ down`."""

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        """Wrap a layer, as yet without any adapter.

        Args:
            base_layer: The `nn.Linear` to adapt.
            name: Of the layer in its model, for messages.

        Raises:
            StudioError: The layer is of a kind that cannot be adapted.
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
        """The update as it stands, scale left out: (out_features, k) and (k, in_features)."""

    def add(self, adapter_name: str, config: TunerConfig, name: str) -> None:
        """Note an adapter's settings; a layer's own `update_layer` makes its factors.

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
        """A trained tensor of zeros, float32 or wider, beside the base weight."""
        weight = self.get_base_weight()
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return nn.Parameter(torch.zeros(shape, dtype=dtype, device=weight.device))

    def unfilled(self, *shape: int, like: Tensor) -> Tensor:
        """A tensor that a checkpoint has to fill; NaN, so that a gap cannot go unseen."""
        return torch.full(shape, math.nan, dtype=like.dtype, device=like.device)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer and the active adapters: (..., in_features) -> (..., out_features).

        Further arguments belong to the base layer.
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
        up, down = (_widen(factor) for factor in self.factors(adapter_name))
        return up * self.scaling[adapter_name], down

    @torch.no_grad()
    def get_delta_weight(self, adapter_name: str) -> Tensor:  # (out_features, in_features)
        """Compute the whole update of the weight, scale included, in float32 or wider."""
        up, down = self.lora_factors(adapter_name)
        return up @ down

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the given adapters (None: the active ones) to the base weight.

        Raises:
            StudioError: `safe_merge` is set and the merged weight would not be finite.
        """
        weight = self.get_base_weight()
        for adapter_name in check_adapters_to_merge(self, adapter_names):
            if adapter_name not in self.r:
                continue
            delta = self.get_delta_weight(adapter_name)
            merged = (weight.to(delta.dtype) + delta).to(weight.dtype)
            if safe_merge and not bool(torch.isfinite(merged).all()):
                raise StudioError(
                    f"adapter {adapter_name!r} makes a {self.out_features}x{self.in_features} "
                    "weight NaN or infinite; it was not merged. Load an undamaged adapter."
                )
            weight.copy_(merged)
            self.merged_adapters.append(adapter_name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the merged updates out of the base weight, last in first out, to rounding."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        weight = self.get_base_weight()
        while self.merged_adapters:
            delta = self.get_delta_weight(self.merged_adapters.pop())
            weight.copy_((weight.to(delta.dtype) - delta).to(weight.dtype))

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set an adapter's scale to its own, alpha / r, times a factor."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self.alpha[adapter] / self.r[adapter]

    def scale_layer(self, scale: float) -> None:
        """Multiply the scale of every active adapter."""
        for adapter_name in self.active_adapters:
            if adapter_name in self.scaling:
                self.scaling[adapter_name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scale of every active adapter; None restores alpha / r."""
        for adapter_name in self.active_adapters:
            if scale is None:
                self.set_scale(adapter_name, 1.0)
            elif adapter_name in self.scaling:
                self.scaling[adapter_name] /= scale

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        # PEFT's own also casts to the base's dtype, which would round a trained float32 adapter
        # each time it is loaded beside a half-precision base.
        target = device or self.get_base_weight().device
        for name in (*self.adapter_layer_names, *self.other_param_names):
            container = getattr(self, name)
            if not isinstance(container, nn.ParameterDict | BufferDict):
                continue
            if adapter_name in container:
                tensor: Any = container[adapter_name]
                container[adapter_name] = tensor if tensor.is_meta else tensor.to(target)


def _check_base(base_layer: nn.Module, name: str) -> nn.Linear:
    if isinstance(base_layer, NonDynamicallyQuantizableLinear):
        raise StudioError(
            f"{name} belongs to an nn.MultiheadAttention, which reads its weight without calling "
            "it: an adapter there would do nothing. Take it out of the targets."
        )
    if not isinstance(base_layer, nn.Linear) or base_layer.weight.dtype not in BASE_DTYPES:
        weight = getattr(base_layer, "weight", None)
        kind = f"{type(base_layer).__name__} of {getattr(weight, 'dtype', 'no dtype')}"
        raise StudioError(
            f"this method adapts nn.Linear layers in float64, float32, bfloat16 or float16; {name} "
            f"is a {kind}. Narrow the targets."
        )
    return base_layer


def _widen(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
