"""The honest curve: the loss at fixed noise and fixed timesteps, so that two steps compare."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from nora_studio.cache import LatentCache
from nora_studio.dreambooth import Batch, DreamboothStep

MAXIMUM_PHOTOS = 8
LEVELS = 4
"""Timesteps of each photo, evenly over the schedule."""


@dataclass(frozen=True)
class FixedBatches:
    """What a loss is measured on, always the same."""

    batches: list[Batch]
    name: str
    """In the log: "held_out_loss" on photos never trained on, "fixed_loss" on the training's."""

    @classmethod
    def of(
        cls,
        cache: LatentCache,
        prompts: torch.Tensor,  # (photos,): which of the training prompts is whose
        timesteps: int,
        is_held_out: bool,
        seed: int = 0,
    ) -> "FixedBatches":
        """One batch a noise level, of the first photos; noise from a generator of its own."""
        generator = torch.Generator().manual_seed(seed)
        count = min(MAXIMUM_PHOTOS, len(cache.mean))
        latents = cache.mean[:count]
        batches = []
        for level in range(LEVELS):
            step = int((level + 0.5) * timesteps / LEVELS)
            batches.append(
                {
                    "latents": latents,
                    "noise": torch.randn(latents.shape, generator=generator),
                    "timesteps": torch.full((count,), step),
                    "time_ids": cache.time_ids[:count],
                    "prompts": prompts[:count],
                }
            )
        return cls(batches, "held_out_loss" if is_held_out else "fixed_loss")


@torch.no_grad()
def measure(fixed: FixedBatches, model: nn.Module, accelerator: Accelerator) -> float:
    """A trainee's mean loss on the fixed batches, dropout off; its state is left as it was."""
    module: DreamboothStep = accelerator.unwrap_model(model)
    was_training = module.training
    module.eval()
    total = torch.zeros((), device=accelerator.device)
    try:
        with accelerator.autocast():
            for batch in fixed.batches:
                total += module(**{k: v.to(accelerator.device) for k, v in batch.items()})
    finally:
        module.train(was_training)
    return (total / len(fixed.batches)).item()
