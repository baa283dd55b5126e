"""How the learning rate goes over a run."""

from typing import Any

import torch
from diffusers.optimization import get_polynomial_decay_schedule_with_warmup, get_scheduler

CYCLES = 2
POWER = 2.0


def learning_rate_schedule(
    kind: str,
    optimizer: torch.optim.Optimizer,
    steps: int,
    warmup_steps: int,
    cycles: int | None = None,
    power: float | None = None,
) -> Any:
    """One of diffusers' schedules, over every group's own peak.

    Args:
        kind: As the trainer's option `schedule`.
        steps: Of the whole run.
        warmup_steps: Of linear warm-up.
        cycles: Of cosine-restarts, each from the peak to zero. None: `CYCLES`.
        power: Of polynomial: the rate is the peak times (what is left of the run) ** power. None:
            `POWER`.
    """
    if kind == "polynomial":
        return get_polynomial_decay_schedule_with_warmup(
            optimizer, warmup_steps, steps, lr_end=0.0, power=POWER if power is None else power
        )
    names = {
        # Its plain "constant" leaves the warm-up out.
        "constant": "constant_with_warmup",
        "cosine-restarts": "cosine_with_restarts",
    }
    return get_scheduler(
        names.get(kind, kind),
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=steps,
        num_cycles=cycles or CYCLES,
    )
