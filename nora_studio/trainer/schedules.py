"""Learning-rate schedules."""

import math
from functools import partial

import torch
from diffusers.optimization import get_polynomial_decay_schedule_with_warmup, get_scheduler
from torch.optim.lr_scheduler import LambdaLR

CYCLES = 2
POWER = 2.0


def learning_rate_schedule(
    kind: str,
    optimizer: torch.optim.Optimizer,
    steps: int,
    warmup_steps: int,
    cycles: int = CYCLES,
    power: float = POWER,
    final_rate: float = 0.0,
) -> LambdaLR:
    """Return one of diffusers' schedules, with each parameter group's rate as its peak.

    Args:
        kind: A value of the trainer's option `schedule`.
        steps: Steps of the whole run.
        warmup_steps: Steps of linear warm-up.
        cycles: Number of cosine-restarts' cycles, each from the peak to zero.
        power: Exponent of polynomial: the rate is peak * (share of the run left) ** power.
        final_rate: Rate at the end of a cosine, the same in every group.
    """
    if kind == "cosine" and final_rate > 0:
        return _cosine_to(optimizer, steps, warmup_steps, final_rate)
    if kind == "polynomial":
        return get_polynomial_decay_schedule_with_warmup(
            optimizer, warmup_steps, steps, lr_end=0.0, power=power
        )
    names = {
        # Diffusers' "constant" has no warm-up.
        "constant": "constant_with_warmup",
        "cosine-restarts": "cosine_with_restarts",
    }
    return get_scheduler(
        names.get(kind, kind),
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=steps,
        num_cycles=cycles,
    )


def _cosine_to(
    optimizer: torch.optim.Optimizer, steps: int, warmup_steps: int, final_rate: float
) -> LambdaLR:
    """Return torch's `CosineAnnealingLR` in closed form, so that it can start at any step."""

    def share(peak: float, step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        gone = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
        floor = min(1.0, final_rate / peak)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * gone))

    shares = [partial(share, group["lr"]) for group in optimizer.param_groups]
    return LambdaLR(optimizer, shares)
