"""Measure the loss at fixed noise and timesteps, so that it is comparable between steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from nora_studio.sdxl.cache import LatentCache
from nora_studio.tasks.dreambooth.batches import Batch
from nora_studio.tasks.dreambooth.step import DreamboothStep

MAXIMUM_PHOTOS = 8
LEVELS = 4
"""Number of timesteps of each photo, evenly spaced over the schedule."""


@dataclass(frozen=True)
class FixedBatches:
    """Batches that the loss is measured on at every measurement."""

    batches: list[Batch]
    name: str
    """Name in the log: "held_out_loss" for held-out photos, "fixed_loss" for training photos."""

    @classmethod
    def of(
        cls,
        caches: Sequence[LatentCache],
        prompts: torch.Tensor,  # (photos,): index of each photo's prompt
        timesteps: int,
        is_held_out: bool,
        seed: int = 0,
    ) -> "FixedBatches":
        """Build batches of the first photos' plain views at each noise level."""
        generator = torch.Generator().manual_seed(seed)
        batches: list[Batch] = []
        left = MAXIMUM_PHOTOS
        for cache in caches:
            rows, photos = _plain_rows(cache)
            rows, photos = rows[:left], photos[:left]
            left -= len(rows)
            latents = cache.mean[rows]
            for level in range(LEVELS if len(rows) else 0):
                batch = {
                    "latents": latents,
                    "noise": torch.randn(latents.shape, generator=generator),
                    "timesteps": torch.full((len(rows),), int((level + 0.5) * timesteps / LEVELS)),
                    "time_ids": cache.time_ids[rows],
                    "prompts": prompts[photos],
                }
                if cache.mask is not None:
                    batch["mask"] = cache.mask[rows]
                batches.append(batch)
        return cls(batches, "held_out_loss" if is_held_out else "fixed_loss")


def _plain_rows(cache: LatentCache) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of each photo's first crop, not mirrored, and the photos' indices."""
    if cache.views is None:
        every = torch.arange(len(cache.mean))
        return every, every
    rows = ((cache.views[:, 1] == 0) & (cache.views[:, 2] == 0)).nonzero().flatten()
    return rows, cache.views[rows, 0]


@torch.no_grad()
def measure(fixed: FixedBatches, model: nn.Module, accelerator: Accelerator) -> float:
    """Return the mean loss on the fixed batches, without dropout; the model is not changed."""
    module: DreamboothStep = accelerator.unwrap_model(model)
    was_training = module.training
    module.eval()
    total, pictures = torch.zeros((), device=accelerator.device), 0
    try:
        with accelerator.autocast():
            for batch in fixed.batches:
                count = len(batch["timesteps"])
                loss = module(**{k: v.to(accelerator.device) for k, v in batch.items()})
                total, pictures = total + loss * count, pictures + count
    finally:
        module.train(was_training)
    return (total / pictures).item()
