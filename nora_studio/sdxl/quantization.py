"""Quantisation of a frozen base to 8 or 4 bits: the linear layers of its blocks, after loading.

Layers are quantised one by one on the device, so that at most one is there at full size. The base's
fingerprint is taken before, so that an adapter belongs to the ordinary base.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nora_studio.adapters.fingerprints import keep_fingerprint
from nora_studio.errors import StudioError

INSIDE = {
    "unet": "attentions.",
    "text_encoder": "layers.",
    "text_encoder_2": "layers.",
    "decoder": "layers.",
}
"""Part of the names of the layers that are quantised: 86% of the weights of SDXL's UNet. The time
embeddings and the first and last projections are small, and their errors affect everything."""


def check_quantizer(bits: int) -> None:
    """Refuse a number of bits for which the library is not installed.

    Raises:
        StudioError: bitsandbytes is missing.
    """
    if bits != 16:
        _library(bits)


def _library(bits: int) -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise StudioError(
            f"--base-bits: {bits} needs bitsandbytes, which is not installed ({error}). Run "
            "`pip install 'nora-studio[quantized]'`, or leave --base-bits out."
        ) from error
    return bitsandbytes


def quantize(part: str, module: nn.Module, bits: int, device: torch.device) -> int:
    """Quantise the blocks' linear layers of a frozen part of SDXL or of a language model, in place.

    8 bits: rows scaled by their largest entry (LLM.int8, arXiv 2208.07339, only its weights).
    4 bits: NF4 in blocks of 64 (QLoRA, arXiv 2305.14314). Products are computed in the dtype that
    the weights had.

    Args:
        part: "unet", one of the text encoders, or "decoder".
        module: The module, on the CPU and without adapters.
        bits: 8 or 4.
        device: Where the layers are quantised and stay; the rest of the module stays where it is.

    Returns:
        The number of quantised layers.

    Raises:
        StudioError: bitsandbytes is missing.
    """
    bnb = _library(bits)
    keep_fingerprint(module)
    make = _eight_bit_layer if bits == 8 else _four_bit_layer
    chosen = [
        name
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear and INSIDE[part] in name
    ]
    for name in chosen:
        parent, _, child = name.rpartition(".")
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        fresh = make(bnb, layer, device)
        fresh.train(layer.training)
        setattr(module.get_submodule(parent), child, fresh)
    return len(chosen)


def _eight_bit_layer(bnb: Any, layer: nn.Linear, device: torch.device) -> nn.Module:
    fresh = _eight_bit_class()(
        layer.in_features, layer.out_features, layer.bias is not None, False, device="meta"
    )
    weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    fresh.weight = weight.to(device)
    fresh.bias = layer.bias
    fresh.dense_dtype = layer.weight.dtype
    # Initialised now: the first forward pass would move the weight away from a twin that shares it.
    fresh.init_8bit_state()
    return fresh


def _four_bit_layer(bnb: Any, layer: nn.Linear, device: torch.device) -> nn.Module:
    dtype = layer.weight.dtype
    fresh = _four_bit_class()(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=dtype,
        compress_statistics=False,
        quant_type="nf4",
        device="meta",
    )
    weight = bnb.nn.Params4bit(
        layer.weight.data,
        requires_grad=False,
        compress_statistics=False,
        quant_type="nf4",
        module=fresh,
    )
    fresh.weight = weight.to(device)
    fresh.bias = layer.bias
    # On some CPUs it would repack the shared weights at the first image and round differently.
    fresh.support_avx512bf16_for_cpu = False
    return fresh


@functools.cache
def _eight_bit_class() -> type:
    bnb = _library(8)

    class Linear8bit(bnb.nn.Linear8bitLt):
        """A linear layer with weights in 8 bits and full-precision activations.

        bitsandbytes' own layer rounds activations to 8 bits too and keeps every input for the
        backward pass, which takes more memory than 8 bits save.
        """

        dense_dtype: torch.dtype

        def forward(self, x: Tensor) -> Tensor:
            """Return the layer's output in the dtype of the unquantised weights."""
            return _by_rows(self._product, x.to(self.dense_dtype))

        def _product(self, rows: Tensor) -> Tensor:
            product = _EightBitProduct.apply(rows, self.state.CB, self.state.SCB, self.bias)
            assert isinstance(product, Tensor)
            return product

    return Linear8bit


@functools.cache
def _four_bit_class() -> type:
    bnb = _library(4)

    class Linear4bit(bnb.nn.Linear4bit):
        """bitsandbytes' layer, with the output in the base's dtype, as for a layer in autocast.

        Its own output has the input's dtype: float32 after a normalisation, which doubles the
        memory of activations.
        """

        def forward(self, x: Tensor) -> Tensor:
            """Return the layer's output in the base's dtype."""
            return _by_rows(super().forward, x.to(self.compute_dtype))

    return Linear4bit


def _by_rows(product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a layer's product to x (..., columns) as (rows, columns), and restore x's shape.

    From torch 2.14 on, a product of more than two dimensions returns a view. A view that is
    returned by a custom autograd function may not be added to in place, as AdaLoRA does; a view of
    its result may.
    """
    product_of_rows = product(x.reshape(-1, x.shape[-1]))
    return product_of_rows.view(*x.shape[:-1], product_of_rows.shape[-1])


class _EightBitProduct(torch.autograd.Function):
    """`x @ weight.T + bias`, with the weight dequantised for each product, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        # x: (rows, columns).
        ctx.save_for_backward(codes, scale)
        return F.linear(x, _dequantize(codes, scale, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        codes, scale = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ _dequantize(codes, scale, gradient.dtype), None, None, None


def _dequantize(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the dense weight of int8 codes (rows, columns) and each row's largest entry (rows)."""
    return codes.to(dtype).mul_((scale / 127.0)[:, None])


def shared_state(module: nn.Module) -> list[Any]:
    """Return quantised layers' state besides parameters and buffers, so that trees can share it."""
    found: list[Any] = []
    for layer in module.modules():
        state, quant_state = getattr(layer, "state", None), getattr(layer, "quant_state", None)
        pair = (getattr(state, "CB", None), getattr(state, "SCB", None))  # 8 bits: codes, scales
        found += [piece for piece in (*pair, quant_state) if piece is not None]
    return found


def stored_bytes(module: nn.Module) -> int:
    """Return the bytes that a module's weights take in memory, including quantisation scales."""
    seen: dict[int, int] = {}
    tensors = [*module.parameters(), *module.buffers()]
    for state in shared_state(module):
        tensors += [state] if isinstance(state, Tensor) else [state.absmax, state.code]
    for tensor in tensors:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())
