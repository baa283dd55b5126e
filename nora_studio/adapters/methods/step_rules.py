"""What a method does around each training step, besides the optimizer's step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nora_studio.nora.stacked import StackedParameters


class StepRules(Protocol):
    """A method's rules around a step, called by the training loop; `PlainSteps` does nothing."""

    def before_step(self, step: int) -> None:
        """Prepare the forward pass of a step, counted from 1."""
        ...

    def after_step(self, step: int) -> None:
        """Finish a step after the optimizer's, while the gradients are still there."""
        ...

    def penalty(self) -> Tensor | None:
        """Return what the method adds to the loss (scalar), or None."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next steps depend on, for a checkpoint."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set what `state` returned."""
        ...


class StepTensors(Protocol):
    """What a method computes for all of its layers at once, before each forward pass."""

    @property
    def stacks(self) -> list[StackedParameters]:
        """The trained parameters that it has stacked."""
        ...

    def form(self) -> None:
        """Compute the tensors and give them to the layers, for a forward pass with gradients."""
        ...

    def drop(self) -> None:
        """Take them back after the backward pass."""
        ...


class PlainSteps:
    """The rules of a method that does nothing around a step."""

    def before_step(self, step: int) -> None:
        """Do nothing."""

    def after_step(self, step: int) -> None:
        """Do nothing."""

    def penalty(self) -> Tensor | None:
        """Return None: nothing is added to the loss."""
        return None

    def state(self) -> dict[str, Tensor]:
        """Return nothing: there is no state."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Do nothing."""


def plain_step_rules(parts: Mapping[str, nn.Module], seed: int) -> StepRules:
    """Return the step rules of a method that does nothing around a step."""
    return PlainSteps()


def with_penalty(loss: Tensor, rules: StepRules) -> Tensor:
    """Return the loss with the gradient of the method's penalty added, but not its value.

    The last line of every task's step, so that logged losses are comparable between methods.
    """
    penalty = rules.penalty()
    return loss if penalty is None else loss + (penalty - penalty.detach())
