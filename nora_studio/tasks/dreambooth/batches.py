"""Training batches from cached latents, the same for every twin and resumable bit for bit."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from nora_studio.sdxl.cache import LatentCache
from nora_studio.sdxl.diffusion import with_offset
from nora_studio.trainer.train_state import BatchSource

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Random changes, sampled each time that a photo is used."""

    flip: float = 0.0
    """Probability of its mirrored view, 0 to 1."""
    caption_dropout: float = 0.0
    """Probability of the empty prompt instead of its own, 0 to 1."""
    empty_prompt: int = 0
    """Index of the empty prompt."""


class PhotoBatches(BatchSource):
    """A source of training batches from cached latents, the same for every twin.

    Photos are shuffled in each epoch and collected by size, so that a batch has a single size.
    Everything random comes from separate generators on the CPU, so that it is the same on every
    device and can be saved and restored. Timesteps are stratified: the schedule is split into equal
    intervals, one for each row of a batch, which lowers the loss's variance (Kingma et al., arXiv
    2107.00630, appendix I.1).
    """

    def __init__(
        self,
        cache: LatentCache | Sequence[LatentCache],  # one for each size of image
        batch_size: int,
        timesteps: int,
        seed: int,
        prompts: Tensor | None = None,  # (photos,): index of each one's prompt; None: one for all
        augmentation: Augmentation | None = None,
        noise_offset: float = 0.0,
    ) -> None:
        self.caches = [cache] if isinstance(cache, LatentCache) else list(cache)
        self.batch_size, self.timesteps = batch_size, timesteps
        self.noise_offset = noise_offset
        self.augmentation = augmentation or Augmentation()
        self.bucket_of: dict[int, int] = {}
        self.rows_of: dict[int, tuple[list[int], list[int]]] = {}
        for bucket, one in enumerate(self.caches):
            self._index_views(bucket, one)
        count = len(self.bucket_of)
        self.prompts = torch.zeros(count, dtype=torch.int64) if prompts is None else prompts
        first = ("order", "noise", "timesteps", "posterior")
        self.generators = {
            name: torch.Generator().manual_seed(seed * 4 + offset)
            for offset, name in enumerate(first)
        }
        # Far from the consecutive seeds of the others.
        for offset, name in enumerate(("crops", "flips", "captions")):
            self.generators[name] = torch.Generator().manual_seed(2**31 + seed * 4 + offset)
        self.queue = torch.empty(0, dtype=torch.int64)
        self.waiting: list[list[int]] = [[] for _ in self.caches]

    def _index_views(self, bucket: int, cache: LatentCache) -> None:
        """Index the cache's rows by photo: its plain crops and its mirrored ones."""
        views = cache.views
        if views is None:
            views = torch.tensor([[row, 0, 0] for row in range(len(cache.mean))])
        for row, (photo, _, mirrored) in enumerate(views.tolist()):
            self.bucket_of[photo] = bucket
            self.rows_of.setdefault(photo, ([], []))[mirrored].append(row)

    def _photos(self) -> tuple[LatentCache, list[int]]:
        """Return the cache and the photos of the next batch."""
        while True:
            if not len(self.queue):
                count = len(self.bucket_of)
                self.queue = torch.randperm(count, generator=self.generators["order"])
            photo = int(self.queue[0])
            self.queue = self.queue[1:]
            bucket = self.bucket_of[photo]
            self.waiting[bucket].append(photo)
            if len(self.waiting[bucket]) == self.batch_size:
                chosen, self.waiting[bucket] = self.waiting[bucket], []
                return self.caches[bucket], chosen

    def _rows(self, photos: list[int]) -> Tensor:
        """Sample the row of a view of each photo: one of its crops, mirrored or not."""
        crops = torch.rand(self.batch_size, generator=self.generators["crops"]).tolist()
        flips = torch.rand(self.batch_size, generator=self.generators["flips"])
        rows = []
        mirrored = (flips < self.augmentation.flip).tolist()
        for photo, crop, flip in zip(photos, crops, mirrored, strict=True):
            views = self.rows_of[photo][flip]
            rows.append(views[int(crop * len(views))])
        return torch.tensor(rows)

    @override
    def next(self) -> Batch:
        """Return one batch on the CPU: latents, noise, timesteps, time ids, indices of prompts.

        With masks, also `mask`, (batch, 1, height, width): weights of the loss, 1 on average.
        """
        cache, photos = self._photos()
        rows = self._rows(photos)
        mean, std = cache.mean[rows], cache.std[rows]
        jitter = torch.randn(mean.shape, generator=self.generators["posterior"])
        noise = torch.randn(mean.shape, generator=self.generators["noise"])
        places = torch.rand(self.batch_size, generator=self.generators["timesteps"])
        places = (torch.arange(self.batch_size) + places) / self.batch_size * self.timesteps
        chances = torch.rand(self.batch_size, generator=self.generators["captions"])
        prompts = self.prompts[photos]
        prompts = torch.where(
            chances < self.augmentation.caption_dropout, self.augmentation.empty_prompt, prompts
        )
        batch = {
            "latents": mean + std * jitter,
            "noise": with_offset(noise, self.noise_offset, self.generators["noise"]),
            "timesteps": places.long().clamp(max=self.timesteps - 1),
            "time_ids": cache.time_ids[rows],
            "prompts": prompts,
        }
        if any(one.mask is not None for one in self.caches):
            assert cache.mask is not None
            batch["mask"] = cache.mask[rows]
        return batch

    @override
    def state(self) -> dict[str, Tensor]:
        """Return the state that determines the next batches."""
        states = {name: generator.get_state() for name, generator in self.generators.items()}
        waiting = [photo for photos in self.waiting for photo in photos]
        return {
            **states,
            "queue": self.queue.clone(),
            "waiting": torch.tensor(waiting, dtype=torch.int64),
        }

    @override
    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue exactly from a state."""
        for name, generator in self.generators.items():
            generator.set_state(state[name])
        self.queue = state["queue"].clone()
        self.waiting = [[] for _ in self.caches]
        for photo in state["waiting"].tolist():
            self.waiting[self.bucket_of[photo]].append(photo)
