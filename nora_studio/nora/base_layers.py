"""The layers that NoRA can adapt: linear ones, plain or quantised."""

from collections.abc import Callable
from typing import Any, TypeGuard, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import resolve_quantization_backend
from peft.utils.quantization_utils import QuantizationBackend
from torch import nn

from nora_studio.errors import StudioError
from nora_studio.nora.additive import BASE_DTYPES, refuse_packed_attention


def check_base(
    base_layer: nn.Module, name: str, requantize: Callable[[], Any] | None = None
) -> tuple[nn.Linear, QuantizationBackend | None]:
    """Check that NoRA can adapt a layer, and return access to its dense weight.

    Args:
        base_layer: A plain `nn.Linear` or a quantised one of bitsandbytes, torchao or HQQ.
        name: The layer's name in its model, for messages.
        requantize: For torchao: returns the quantisation config, as PEFT reads it from the model.

    Returns:
        The layer, and PEFT's access to its dense weight; None where `weight` is dense itself.

    Raises:
        StudioError: NoRA cannot adapt a layer of this kind.
    """
    refuse_packed_attention(base_layer, name)
    if isinstance(base_layer, BaseTunerLayer):
        raise StudioError(
            f"{name} already carries an adapter of another kind "
            f"({type(base_layer).__name__}). Remove that one before adding NoRA."
        )
    weight = getattr(base_layer, "weight", None)
    if is_plain(base_layer) and base_layer.weight.dtype in BASE_DTYPES:
        return base_layer, None  # PEFT's lookup would import every installed quantiser.
    requantize = requantize or _no_requantization(name)
    backend = resolve_quantization_backend(base_layer, get_apply_tensor_subclass=requantize)
    if backend is not None and not backend.supports_merge:
        raise StudioError(
            f"{name} is quantised by {backend.backend_name}, whose weight cannot be dequantised, "
            "and NoRA has to decompose it. Quantise with bitsandbytes or torchao, or narrow the "
            "targets."
        )
    if backend is None and (
        not isinstance(base_layer, nn.Linear) or base_layer.weight.dtype not in BASE_DTYPES
    ):
        kind = f"{type(base_layer).__name__} of {getattr(weight, 'dtype', 'no dtype')}"
        raise StudioError(
            f"NoRA adapts nn.Linear layers in float64, float32, bfloat16 or float16; {name} is "
            f"a {kind}. Narrow the targets."
        )
    return cast(nn.Linear, base_layer), backend


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Return whether a layer is torch's own linear layer, with a weight that is dense itself."""
    return type(layer) is nn.Linear and type(layer.weight) is nn.Parameter


def dense_dtype(base_layer: nn.Module, backend: QuantizationBackend | None) -> torch.dtype:
    """Return the dtype that the base's weight has once dequantised, without dequantising it."""
    weight: Any = base_layer.weight
    if backend is None:
        return weight.dtype
    state = getattr(weight, "quant_state", None)  # bitsandbytes, 4 bits
    dtype = weight.dtype if state is None else state.dtype
    dtype = getattr(base_layer, "dense_dtype", dtype)  # 8 bits, where the layer stores it
    return dtype if dtype in BASE_DTYPES else torch.float32


def _no_requantization(name: str) -> Callable[[], Any]:
    def refuse() -> Any:
        raise StudioError(
            f"{name} was quantised by torchao, but the model does not say how, so a merged weight "
            "could not be quantised again. Load the base with a TorchAoConfig, or merge into the "
            "unquantised base."
        )

    return refuse
