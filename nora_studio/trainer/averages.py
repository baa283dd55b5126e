"""Averages of the trained weights, which a run saves and evaluates instead of the weights."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from typing_extensions import override


class WeightAverage(Protocol):
    """An average of the trained weights, updated at each step and used to evaluate and save."""

    def before_step(self, step: int) -> None:
        """Run before each step."""
        ...

    def after_step(self, step: int) -> None:
        """Update the average after an optimizer step."""
        ...

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Put the average into the module for a block; then put the trained weights back."""
        ...

    def restore(self, step: int) -> None:
        """Restore the average as of a step from the module, which holds it when this is called."""
        ...


class ExponentialAverage(WeightAverage):
    """The exponential moving average of the trained weights, by diffusers' `EMAModel`.

    After step t it is decay * average + (1 - decay) * weights, with decay = min(`decay`,
    t / (9 + t)) from the second step on. So a run of a hundred steps forgets its start too: the
    average covers about the last ninth of the steps done.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.model = EMAModel(parameters, decay=decay, foreach=True)

    @override
    def before_step(self, step: int) -> None: ...

    @override
    def after_step(self, step: int) -> None:
        self.model.step(self.parameters)

    @override
    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        trained = copies(self.parameters)
        self.model.copy_to(self.parameters)
        try:
            yield
        finally:
            set_weights(self.parameters, trained)

    @override
    def restore(self, step: int) -> None:
        self.model.shadow_params = copies(self.parameters)
        self.model.optimization_step = step


class ScheduleFreeAverage(WeightAverage):
    """The average that a schedule-free optimizer computes itself (arXiv 2405.15682).

    Switching to it and back rounds, so the trained weights are copied and restored bit for bit.
    """

    def __init__(self, parameters: list[nn.Parameter], optimizer: Any) -> None:
        self.parameters, self.optimizer = parameters, optimizer

    @override
    def before_step(self, step: int) -> None: ...

    @override
    def after_step(self, step: int) -> None: ...

    @override
    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        trained = copies(self.parameters)
        training = self.optimizer.param_groups[0]["train_mode"]
        self.optimizer.eval()
        try:
            yield
        finally:
            if training:
                self.optimizer.train()
            set_weights(self.parameters, trained)

    @override
    def restore(self, step: int) -> None: ...


def copies(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return copies of the weights."""
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def set_weights(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    """Set parameters in place, bit for bit."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
