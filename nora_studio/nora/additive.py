"""What every tuner layer of ours does alike: an update that is added to a frozen weight."""

import warnings
from abc import abstractmethod

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from peft.utils.quantization_utils import QuantizationBackend, TorchaoBackend
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from nora_studio.errors import StudioError

BASE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""What a base weight may be in."""


class AdditiveLayer(BaseTunerLayer):
    """Merging and scaling of updates `scaling * (...)` beside one frozen linear layer.

    Expects `in_features`, `out_features`, and for each adapter its rank in `r`, `scaling`, and
    what `alphas` gives.
    """

    in_features: int
    out_features: int
    r: dict[str, int]
    scaling: dict[str, float]
    merged_adapters: list[str]
    quantization_backend: QuantizationBackend | None = None
    """PEFT's way to the dense weight of a quantised base; None where that is just `weight`."""

    @property
    @abstractmethod
    def alphas(self) -> dict[str, float]:
        """Alpha of each adapter."""

    @abstractmethod
    def get_delta_weight(self, adapter_name: str) -> Tensor:  # (out_features, in_features)
        """Compute the whole update of the weight, scale included, in float32 or wider."""

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the given adapters (None: the active ones) to the base weight.

        The sum is rounded to the base's dtype; a quantised base is quantised again, as PEFT does
        for LoRA. Unmerging subtracts again and returns to the old weight to rounding, not to the
        bit.

        Raises:
            StudioError: `safe_merge` is set and the merged weight would not be finite.
        """
        for adapter_name in check_adapters_to_merge(self, adapter_names):
            if adapter_name not in self.r:
                continue
            weight, delta = self.get_base_weight(), self.get_delta_weight(adapter_name)
            merged = (weight.to(delta.dtype) + delta).to(weight.dtype)
            if safe_merge and not bool(torch.isfinite(merged).all()):
                raise StudioError(
                    f"NaNs detected in the merged weights. The adapter {adapter_name} seems to be "
                    f"broken: it makes a {self.out_features}x{self.in_features} weight NaN or "
                    "infinite, and was not merged. Load an undamaged one."
                )
            self._store(merged)
            self.merged_adapters.append(adapter_name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the merged updates out of the base weight, last in first out, to rounding."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            weight, delta = self.get_base_weight(), self.get_delta_weight(self.merged_adapters[-1])
            self._store((weight.to(delta.dtype) - delta).to(weight.dtype))
            self.merged_adapters.pop()

    def _store(self, weight: Tensor) -> None:
        if self.quantization_backend is None:
            # In place: whoever shares the weight goes on sharing it.
            self.get_base_weight().copy_(weight)
        else:
            if isinstance(self.quantization_backend, TorchaoBackend):
                # PEFT's replaces the weight before it asks how to quantise it again.
                self.quantization_backend.get_apply_tensor_subclass()
            self.set_base_weight(weight)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set an adapter's scale to its own, alpha / r, times a factor."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self.alphas[adapter] / self.r[adapter]

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
        target = device or self.get_base_layer().weight.device  # pyright: ignore
        for name in (*self.adapter_layer_names, *self.other_param_names):
            container = getattr(self, name)
            if not isinstance(container, nn.ParameterDict | BufferDict):
                continue
            if adapter_name in container and not container[adapter_name].is_meta:  # pyright: ignore
                container[adapter_name] = container[adapter_name].to(target)  # pyright: ignore


def refuse_packed_attention(base_layer: nn.Module, name: str) -> None:
    """Refuse a projection that is never called.

    Raises:
        StudioError: it belongs to an `nn.MultiheadAttention`.
    """
    if isinstance(base_layer, NonDynamicallyQuantizableLinear):
        raise StudioError(
            f"{name} belongs to an nn.MultiheadAttention, which reads its weight without calling "
            "it: an adapter there would do nothing. Take it out of the targets."
        )


def widen(tensor: Tensor) -> Tensor:
    """A tensor in float32, or wider where it is."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
