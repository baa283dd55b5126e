"""Parameters of one shape as slices of one tensor, so that a step computes with all at once.

An adapter has two small trained factors in each of several hundred layers. Computed one by one,
they cost hundreds of kernels a step, each far too small for a GPU. As slices of one leaf tensor
they cost one; optimizer, files and checkpoints still see each layer's own parameters.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Item = TypeVar("Item")


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


def stack_frozen(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one shape: (tensors, *shape)."""
    return torch.stack([tensor.detach() for tensor in tensors])


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Return the items in groups of equal keys, in the order of their first ones."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())
