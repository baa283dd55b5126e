"""The products of all NoRA layers of a model, formed at once for each step.

    product = scale * (moved_up inner_down + start_up moved_down)' up'

Source: arXiv:2408.10280, section 3.2, with the start subtracted as in `layer`: before training both
differences are zero bit for bit, and so is every product.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nora_studio.nora.fused_update import LEAST_RATIO
from nora_studio.nora.layer import NoraLinear
from nora_studio.nora.shared_input import SharedInput, find_shared
from nora_studio.nora.stacked import GroupedLayers, StackedParameters, grouped, layers_of


class NoraProducts(GroupedLayers):
    """The products of a model's trained NoRA layers, formed before a forward pass."""

    def __init__(self, modules: Iterable[nn.Module], adapter_name: str = "default") -> None:
        modules = list(modules)
        layers = layers_of(modules, NoraLinear, lambda layer: _can_stack(layer, adapter_name))
        # On a CPU one large product is no faster, and would round differently.
        on_gpu = any(layer.nora_inner_up[adapter_name].is_cuda for layer in layers)
        blocks = find_shared(modules, layers) if on_gpu else [[layer] for layer in layers]
        kinds = grouped(blocks, lambda block: _kind(block[0], adapter_name))
        super().__init__([_Group(group, adapter_name) for group in kinds])


class _Group:
    """Layers whose factors have the same shapes."""

    def __init__(self, blocks: Sequence[Sequence[NoraLinear]], adapter_name: str) -> None:
        # Layers that share an input are neighbours, so that their products are one slice.
        self.layers = layers = [layer for block in blocks for layer in block]
        self.sizes = [len(block) for block in blocks]
        name = adapter_name
        self.inner_up = StackedParameters([layer.nora_inner_up[name] for layer in layers])
        self.inner_down = StackedParameters([layer.nora_inner_down[name] for layer in layers])
        self.stacks = (self.inner_up, self.inner_down)
        self.start_up = _frozen(layers, "nora_inner_up_start", name)
        self.start_down = _frozen(layers, "nora_inner_down_start", name)
        self.up = _frozen(layers, "nora_up", name)
        scales = [layer.scaling[name] for layer in layers]
        self.scales = self.start_up.new_tensor(scales).view(-1, 1, 1)
        self.shared = [SharedInput(block, name) for block in blocks if len(block) > 1]
        for shared in self.shared:
            for layer in shared.layers:
                layer.output_with_others = partial(shared.output, layer)

    def form(self) -> None:
        # Cores are small and stay in the trained factors' own precision.
        with torch.autocast(self.up.device.type, enabled=False):
            inner_down = self.inner_down.whole
            moved_up = self.inner_up.whole - self.start_up
            core = torch.bmm(moved_up, inner_down)
            core = core + torch.bmm(self.start_up, inner_down - self.start_down)
            core = (core * self.scales).to(self.up.dtype)  # (layers, outer_rank, outer_rank)
            products = torch.bmm(core.mT, self.up.mT)  # (layers, outer_rank, out_features)
        layers, shared = iter(self.layers), iter(self.shared)
        for own in products.split(self.sizes):
            if len(own) > 1:
                next(shared).products = own
            for product in own.unbind():
                next(layers).product = product

    def drop(self) -> None:
        for layer in self.layers:
            layer.product = None
        for shared in self.shared:
            shared.forget()


def _frozen(layers: Sequence[NoraLinear], name: str, adapter_name: str) -> Tensor:
    """Stack a frozen tensor of all layers, which become its slices, so that it is kept once."""
    buffers = [getattr(layer, name) for layer in layers]
    whole = torch.stack([buffer[adapter_name] for buffer in buffers])
    for buffer, own in zip(buffers, whole, strict=True):
        buffer[adapter_name] = own
    return whole


def _can_stack(layer: NoraLinear, adapter_name: str) -> bool:
    """Return whether a layer trains this adapter alone, at ranks for which a product pays."""
    alone = layer.active_adapters == [adapter_name] and adapter_name in layer.nora_inner_up
    if not alone or layer.merged:
        return False
    # Far wider outer factors are cheaper without their product (`FusedUpdate`).
    if layer.outer_rank[adapter_name] >= LEAST_RATIO * layer.r[adapter_name]:
        return False
    factors = (layer.nora_inner_up[adapter_name], layer.nora_inner_down[adapter_name])
    return all(factor.requires_grad and not factor.is_meta for factor in factors)


def _kind(layer: NoraLinear, adapter_name: str) -> tuple[object, ...]:
    inner, (up, _) = layer.nora_inner_up[adapter_name], layer.outer_pair(adapter_name)
    return inner.shape, inner.dtype, up.shape, up.dtype, up.device
