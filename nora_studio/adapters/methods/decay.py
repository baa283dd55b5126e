"""Weight decay towards the start, for trained weights whose neutral value is not zero.

Decay towards zero is right where an update is a product with a factor that starts at zero: it then
pulls towards the base model. NoRA, PiSSA and OLoRA start from singular vectors or a QR of the
weight itself, DoRA's magnitudes from the weight's own norms: decaying those towards zero changes
the layer although nothing was learned. For them the distance from the start is decayed instead.

To do so, the start is subtracted from the weight before each optimizer step and added again after
it. Every optimizer then decays by its own rule, and a weight at its start stays there to the bit.
Nothing else that the optimizers here do depends on the origin.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

START = "start"
"""Key of a weight's start in an optimizer's state. Checkpoints carry it, so that a resumed run
decays towards the same numbers."""
_POSITIONS = ("z",)
"""State entries that are points in weight space too: schedule-free's base sequence."""


def decay_towards_start(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]
) -> None:
    """Make an optimizer's weight decay pull some weights towards their current values, not zero.

    A run resumed from a checkpoint without starts keeps decaying towards zero.

    Args:
        optimizer: Before its first step, or before its state is restored.
        parameters: Some of the optimizer's, freshly initialised. A copy of each is kept in memory.
    """
    starts = {parameter: parameter.detach().clone() for parameter in parameters}
    moved: list[tuple[nn.Parameter, Tensor]] = []

    @torch.no_grad()
    def subtract_starts(*_: Any) -> None:
        moved.clear()
        for parameter, first in starts.items():
            state = optimizer.state.get(parameter, {})
            # Without a gradient no optimizer changes a weight, and subtracting would round it.
            if parameter.grad is None or (state and START not in state):
                continue
            moved.append((parameter, state.get(START, first).to(parameter.device)))
        points, origins = _pairs(optimizer, moved)
        if points:
            torch._foreach_sub_(points, origins)

    @torch.no_grad()
    def add_starts(*_: Any) -> None:
        # Only after the step: optimizers take an empty state as a sign of the first one.
        for parameter, start in moved:
            starts[parameter] = optimizer.state[parameter][START] = start
        points, origins = _pairs(optimizer, moved)
        if points:
            torch._foreach_add_(points, origins)
        moved.clear()

    optimizer.register_step_pre_hook(subtract_starts)
    optimizer.register_step_post_hook(add_starts)


def _pairs(
    optimizer: torch.optim.Optimizer, moved: list[tuple[nn.Parameter, Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return all points in weight space of some weights, and the start of each."""
    pairs = [
        (point, start)
        for parameter, start in moved
        for point in _weight_positions(parameter, optimizer.state.get(parameter, {}))
    ]
    return [point for point, _ in pairs], [start for _, start in pairs]


def _weight_positions(parameter: nn.Parameter, state: dict[str, Any]) -> list[Tensor]:
    return [parameter, *(state[name] for name in _POSITIONS if name in state)]
