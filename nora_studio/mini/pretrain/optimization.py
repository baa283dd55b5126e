"""Shared parts of the training loops: timed steps, a learning rate, an average of the weights."""

import copy
import math
from collections.abc import Iterator
from typing import Generic

import torch
from torch import Tensor, nn

from nora_studio.mini.pretrain.devices import Module, is_gpu, synchronize
from nora_studio.mini.pretrain.progress import Progress

WARM_UP_STEPS = 3
"""Steps before the clock starts, in which compilation happens."""


def timed_steps(
    progress: Progress, seconds: float, reserve_seconds: float, device: str
) -> Iterator[tuple[int, float]]:
    """Yield (step from 1, share of the time spent) until the time is over.

    The time is `seconds`, or less if the deadline is closer: `reserve_seconds` before it are
    kept for the work that follows.
    """
    interval = 10 if is_gpu(device) else 1
    step, share = 1, 0.0
    while step <= WARM_UP_STEPS:
        yield step, share
        step += 1
    synchronize(device)
    start = progress.seconds()
    budget = max(0.1, min(seconds, progress.left() - reserve_seconds))
    while share < 1:
        yield step, share
        if step % interval == 0:
            synchronize(device)
            share = (progress.seconds() - start) / budget
        step += 1


def set_rate(
    optimizer: torch.optim.Optimizer, peak: float, share: float, warm_up_share: float = 0.04
) -> None:
    """Set the learning rate: linear warm-up, then cosine decay to 2% of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    rate = peak * min(1.0, (share + 1e-3) / warm_up_share) * (0.98 * cosine + 0.02)
    for group in optimizer.param_groups:
        group["lr"] = rate


def build_optimizer(
    weights: list[nn.Parameter], peak: float, beta: float, weight_decay: float
) -> torch.optim.AdamW:
    """Build a fused AdamW."""
    return torch.optim.AdamW(
        weights,
        lr=peak,
        betas=(0.9, beta),
        weight_decay=weight_decay,
        fused=True,
    )


class MovingAverage(Generic[Module]):
    """An exponential moving average of a module's weights, as a separate module."""

    def __init__(self, module: Module, decay: float) -> None:
        self.module: Module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self._average: list[Tensor] = list(self.module.parameters())
        self._steps = 0

    @torch.no_grad()
    def update(self, module: Module) -> None:
        """Update the average with the module's current weights."""
        self._steps += 1
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._average, [w.detach() for w in module.parameters()], 1 - decay)
