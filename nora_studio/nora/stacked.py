"""Parameters of one shape as slices of one tensor, so that a step computes with all at once.

An adapter has two small trained factors in each of several hundred layers. Computed one by one,
they cost hundreds of kernels a step, each far too small for a GPU. As slices of one leaf tensor
they cost one; optimizer, files and checkpoints still see each layer's own parameters.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import nn

Item = TypeVar("Item")
Layer = TypeVar("Layer", bound=nn.Module)


class StackedParameters:
    """Parameters of one shape, dtype and device as the slices of one leaf tensor, `whole`.

    From now on a parameter's data is `whole[i]` and its gradient is `whole.grad[i]`, which a
    backward pass through `whole` fills; it is cleared in place and never None.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.whole = torch.stack([p.detach() for p in self.parameters]).requires_grad_()
        """(parameters, *shape)."""
        self.gradient = self.whole.grad = torch.zeros_like(self.whole)
        values = self.whole.detach()
        for parameter, value, slice_ in zip(self.parameters, values, self.gradient, strict=True):
            parameter.data, parameter.grad = value, slice_

    @property
    def is_trained(self) -> bool:
        """Whether all of the parameters are still trained."""
        return all(parameter.requires_grad for parameter in self.parameters)


class LayerGroup(Protocol):
    """Layers of one shape, with their trained parameters stacked."""

    @property
    def stacks(self) -> Sequence[StackedParameters]:
        """The stacked parameters."""
        ...

    def form(self) -> None:
        """Compute what the layers use in a forward pass with gradients, and give it to them."""
        ...

    def drop(self) -> None:
        """Take it back: it keeps the graph of a step alive."""
        ...


class GroupedLayers:
    """All groups of layers of a model: what a method computes for them at once in each step.

    The layers use it in every forward pass with gradients from `form` until `drop`, which must be
    called after the backward pass. Groups that are no longer trained are left out of `form`.
    """

    def __init__(self, groups: Sequence[LayerGroup]) -> None:
        self.groups = groups
        self.stacks = [stack for group in groups for stack in group.stacks]
        """The trained parameters of all layers."""

    def form(self) -> None:
        """Compute what the layers share in a step, and give it to them."""
        for group in self.groups:
            if all(stack.is_trained for stack in group.stacks):
                group.form()

    def drop(self) -> None:
        """Take it back: the layers compute by themselves again."""
        for group in self.groups:
            group.drop()


def layers_of(
    modules: Iterable[nn.Module], kind: type[Layer], wanted: Callable[[Layer], bool]
) -> list[Layer]:
    """Return the wanted layers of a class in some modules, in their order."""
    found = (layer for module in modules for layer in module.modules())
    return [layer for layer in found if isinstance(layer, kind) and wanted(layer)]


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Return the items in groups of equal keys, in the order of their first ones."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())
