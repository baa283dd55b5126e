"""Images in memory, crops of them, and batches for training and testing."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import override

from nora_studio.tasks.fewshot.crops import middle_box, resample, sample_boxes
from nora_studio.tasks.fewshot.datasets import Picture
from nora_studio.trainer.train_state import Batch, BatchSource

LONGEST_SHORT_SIDE = 512
"""Larger training images are shrunk when they are read; the usual benchmarks have none."""
FLIP = 0.5
READERS = 8
KEPT_BYTES = 2 * 1024**3
"""Test sets up to this size are read once and kept in memory."""


class ShotPictures:
    """The training images on the device, as bytes."""

    def __init__(self, pictures: Sequence[tuple[Picture, int]], device: torch.device) -> None:
        read = [_shrunk_pixels(picture.open()) for picture, _ in pictures]
        self.labels = torch.tensor([label for _, label in pictures])
        self.sizes = torch.tensor([one.shape[-2:] for one in read])
        same = bool((self.sizes == self.sizes[0]).all())
        self.stack = torch.stack(read).to(device) if same else None
        self.each = [] if same else [one.to(device) for one in read]

    def views(self, places: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
        """Return crops of the images at `places`, (batch, 3, size, size), 0-255."""
        if self.stack is not None:
            return resample(self.stack[places], boxes, size, flips)
        crops = [
            resample(self.each[place][None], boxes[row : row + 1], size, flips[row : row + 1])
            for row, place in enumerate(places.tolist())
        ]
        return torch.cat(crops)

    def middles(self) -> Tensor:
        """Return the box of each image's central square, as used in tests, (images, 4)."""
        return torch.tensor([middle_box(h, w) for h, w in self.sizes.tolist()])


def _shrunk_pixels(image: Image.Image) -> Tensor:
    image = image.convert("RGB")
    short = min(image.size)
    if short > LONGEST_SHORT_SIDE:
        width, height = (round(side * LONGEST_SHORT_SIDE / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


class ShotBatches(BatchSource):
    """A source of batches of training images, shuffled in each epoch.

    A batch at the end of an epoch is filled up from the next one, so that all have the same size.
    Order, crops and flips come from separate generators on the CPU, so that they are the same for
    every method and on every device, and are saved with a checkpoint.
    """

    def __init__(self, pictures: ShotPictures, batch_size: int, seed: int, augment: bool) -> None:
        self.pictures, self.batch_size, self.augment = pictures, batch_size, augment
        self.plain = pictures.middles()
        self.generators = {
            name: torch.Generator().manual_seed(seed * 4 + offset)
            for offset, name in enumerate(("order", "crops", "flips"))
        }
        self.queue = torch.empty(0, dtype=torch.int64)

    @override
    def next(self) -> Batch:
        """Return one batch: labels and places (batch,), boxes (batch, 4), flips (batch,)."""
        while len(self.queue) < self.batch_size:
            count = len(self.pictures.labels)
            more = torch.randperm(count, generator=self.generators["order"])
            self.queue = torch.cat([self.queue, more])
        places, self.queue = self.queue[: self.batch_size], self.queue[self.batch_size :]
        flips = torch.zeros(self.batch_size, dtype=torch.bool)
        boxes = self.plain[places]
        if self.augment:
            boxes = sample_boxes(self.pictures.sizes[places], self.generators["crops"])
            flips = torch.rand(self.batch_size, generator=self.generators["flips"]) < FLIP
        return {
            "labels": self.pictures.labels[places],
            "places": places,
            "boxes": boxes,
            "flips": flips,
        }

    @override
    def state(self) -> dict[str, Tensor]:
        """Return the state that determines the next batches."""
        states = {name: generator.get_state() for name, generator in self.generators.items()}
        return {**states, "queue": self.queue.clone()}

    @override
    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue exactly from a state."""
        for name, generator in self.generators.items():
            generator.set_state(state[name])
        self.queue = state["queue"].clone()


@dataclass
class EvaluationSet:
    """Labelled images to test on, preprocessed for the model."""

    pictures: Sequence[tuple[Picture, int]]
    preprocess: Callable[[Image.Image], Tensor]
    batch_size: int = 256
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels (batch, 3, size, size) and labels (batch,), in order, on the CPU."""
        if self.kept:
            yield from self.kept
            return
        seen: list[tuple[Tensor, Tensor]] = []
        spent = 0
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(self.pictures), self.batch_size):
                chosen = self.pictures[start : start + self.batch_size]
                read = readers.map(lambda one: self.preprocess(one[0].open()), chosen)
                batch = torch.stack(list(read)), torch.tensor([label for _, label in chosen])
                spent += batch[0].nbytes
                seen = [*seen, batch] if spent <= KEPT_BYTES else []
                yield batch
        if spent <= KEPT_BYTES:
            self.kept = seen


def thinned(pictures: Sequence[tuple[Picture, int]], limit: int) -> Sequence[tuple[Picture, int]]:
    """Return at most `limit` of the images, evenly spaced."""
    if limit >= len(pictures):
        return pictures
    return [pictures[i * len(pictures) // limit] for i in range(limit)]
