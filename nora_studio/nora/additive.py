"""Merging and scaling of additive updates, shared by this project's tuner layers."""

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
"""Dtypes that a base weight may have."""


class AdditiveLayer(BaseTunerLayer):
    """Base class of layers that add updates, `scaling * (...)`, to one frozen linear layer.

    Subclasses set the attributes below and define `alphas` and `get_delta_weight`.
    """

    in_features: int
    out_features: int
    r: dict[str, int]
    scaling: dict[str, float]
    merged_adapters: list[str]
    quantization_backend: QuantizationBackend | None = None
    """PEFT's access to the dense weight of a quantised base; None: `weight` is dense itself."""

    @property
    @abstractmethod
    def alphas(self) -> dict[str, float]:
        """Each adapter's alpha."""

    @abstractmethod
    def get_delta_weight(self, adapter_name: str) -> Tensor:  # (out_features, in_features)
        """Compute the whole update of the weight, scale included, in float32 or wider."""

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return True: PEFT's `convert_to_lora` can convert every such layer."""
        return True

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the given adapters (None: the active ones) to the base weight.

        The sum is rounded to the base's dtype; a quantised base is quantised again, as PEFT does
        for LoRA. Unmerging subtracts the updates again, which restores the old weight up to
        rounding, not to the bit.

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
                    f"broken: it would make a {self.out_features}x{self.in_features} weight NaN or "
                    "infinite, so it was not merged. Load an undamaged copy of it."
                )
            self._store(merged)
            self.merged_adapters.append(adapter_name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract the merged updates from the base weight, last merged first, up to rounding."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            weight, delta = self.get_base_weight(), self.get_delta_weight(self.merged_adapters[-1])
            self._store((weight.to(delta.dtype) - delta).to(weight.dtype))
            self.merged_adapters.pop()

    def _store(self, weight: Tensor) -> None:
        if self.quantization_backend is None:
            # In place, so that modules that share the weight go on sharing it.
            self.get_base_weight().copy_(weight)
        else:
            if isinstance(self.quantization_backend, TorchaoBackend):
                # Looked up first: PEFT replaces the weight before it finds how to requantise it.
                self.quantization_backend.get_apply_tensor_subclass()
            self.set_base_weight(weight)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set an adapter's scale to alpha / r times a factor."""
        if adapter in self.scaling:
            self.scaling[adapter] = scale * self.alphas[adapter] / self.r[adapter]

    def scale_layer(self, scale: float) -> None:
        """Multiply the scale of every active adapter."""
        for adapter_name in self.active_adapters:
            if adapter_name in self.scaling:
                self.scaling[adapter_name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the scale of every active adapter, or reset it to alpha / r (None)."""
        for adapter_name in self.active_adapters:
            if scale is None:
                self.set_scale(adapter_name, 1.0)
            elif adapter_name in self.scaling:
                self.scaling[adapter_name] /= scale

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        # PEFT's own method also casts to the base's dtype, which would round a trained float32
        # adapter each time it is loaded on a half-precision base.
        target = device or self.get_base_layer().weight.device  # pyright: ignore
        for name in (*self.adapter_layer_names, *self.other_param_names):
            container = getattr(self, name)
            if not isinstance(container, nn.ParameterDict | BufferDict):
                continue
            if adapter_name in container and not container[adapter_name].is_meta:  # pyright: ignore
                container[adapter_name] = container[adapter_name].to(target)  # pyright: ignore


def refuse_packed_attention(base_layer: nn.Module, name: str) -> None:
    """Refuse the output projection of an `nn.MultiheadAttention`, which is never called.

    Raises:
        StudioError: the layer is such a projection.
    """
    if isinstance(base_layer, NonDynamicallyQuantizableLinear):
        raise StudioError(
            f"{name} belongs to an nn.MultiheadAttention, which reads its weight without calling "
            "it, so an adapter there would do nothing. Remove it from the targets."
        )


def widen(tensor: Tensor) -> Tensor:
    """Return a tensor, detached, in float32 or in its own dtype where that is wider."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
