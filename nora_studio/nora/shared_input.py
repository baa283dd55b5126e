"""NoRA layers that read the same input, such as q, k and v of an attention, computed together."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from nora_studio.nora.layer import NoraLinear
from nora_studio.nora.product_linear import ProductLinears
from nora_studio.nora.stacked import grouped

SELF_ATTENTION = (("to_q", "to_k", "to_v"), ("q_proj", "k_proj", "v_proj"))
CROSS_ATTENTION = (("to_k", "to_v"),)
"""Names of the layers of an attention that are called with one tensor, in diffusers and
transformers."""


class SharedInput:
    """Layers of one shape that are called with one tensor, one after another.

    The first call computes the outputs of all, and the others take theirs. A call with another
    tensor computes all again.
    """

    def __init__(self, layers: Sequence[NoraLinear], adapter_name: str) -> None:
        self.layers = list(layers)
        bases = [layer.base_layer for layer in layers]
        self.weight = _as_one([base.weight.data for base in bases])
        for base, own in zip(bases, self.weight.chunk(len(bases)), strict=True):
            base.weight.data = own  # So that it is kept once.
        biases = [base.bias.detach() for base in bases if base.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        downs = [layer.outer_pair(adapter_name)[1] for layer in layers]
        self.down = _as_one(downs)
        for layer, own in zip(layers, self.down.chunk(len(bases)), strict=True):
            layer.nora_down[adapter_name] = own
        self.products: Tensor | None = None
        """(layers, outer_rank, out_features), while they are formed for a step."""
        self._known: tuple[Tensor, dict[int, Tensor]] | None = None

    def output(self, layer: NoraLinear, x: Tensor) -> Tensor:
        """Return one layer's output for an input: (..., in_features) -> (..., out_features)."""
        if self._known is None or self._known[0] is not x or id(layer) not in self._known[1]:
            whole = ProductLinears.apply(x, self.weight, self.bias, self.down, self.products)
            assert isinstance(whole, Tensor)
            parts = whole.chunk(len(self.layers), dim=-1)
            self._known = x, {id(one): part for one, part in zip(self.layers, parts, strict=True)}
        own = self._known[1].pop(id(layer))
        if not self._known[1]:
            self._known = None
        return own

    def forget(self) -> None:
        """Forget outputs that nobody asked for."""
        self._known = self.products = None


def find_shared(
    modules: Iterable[nn.Module], layers: Iterable[NoraLinear]
) -> list[list[NoraLinear]]:
    """Return the layers in lists of those that share an input; most lists have one layer.

    Only plain linear layers share: others, such as quantised ones, compute in their own way.
    """
    left = {id(layer): layer for layer in layers}
    found: list[list[NoraLinear]] = []
    for module in modules:
        for parent in module.modules():
            cross = getattr(parent, "is_cross_attention", False)
            for names in CROSS_ATTENTION if cross else SELF_ATTENTION:
                own = [left.get(id(getattr(parent, name, None))) for name in names]
                plain = [one for one in own if one is not None and one.base_is_plain]
                for alike in grouped(plain, _shape):
                    if len(alike) > 1:
                        found.append(alike)
                        for one in alike:
                            del left[id(one)]
    return [*found, *([layer] for layer in left.values())]


def _shape(layer: NoraLinear) -> tuple[object, ...]:
    return layer.out_features, layer.in_features, layer.base_layer.bias is None


def _as_one(parts: Sequence[Tensor]) -> Tensor:
    """Return matrices stacked along their rows; without a copy where they are stacked already."""
    first, rows = parts[0], sum(len(part) for part in parts)
    place = first.data_ptr()
    for part in parts:
        own = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (own and part.is_contiguous() and part.data_ptr() == place):
            return torch.cat(list(parts)).detach()
        place += part.numel() * part.element_size()
    return first.detach().as_strided((rows, first.shape[1]), first.stride())
