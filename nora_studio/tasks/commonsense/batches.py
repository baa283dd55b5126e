"""Training batches of questions, the same for every twin and resumable bit for bit."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from nora_studio.tasks.commonsense.examples import Batch, Example, collate, fill, pack
from nora_studio.trainer.train_state import BatchSource

MEGABATCH = 50
"""Number of batches that are sampled together and sorted by length with `group_by_length`, as in
transformers."""


class QuestionBatches(BatchSource):
    """A source of batches of examples, shuffled in each epoch.

    The order comes from a separate generator on the CPU, so that it is the same on every device and
    can be saved and restored.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        batch_size: int,  # rows
        pad: int,
        seed: int,
        group_by_length: bool = False,
        packed: int | None = None,  # tokens of a packed row; None: an example is a row
    ) -> None:
        self.examples = list(examples)
        self.batch_size, self.pad, self.packed = batch_size, pad, packed
        self.group_by_length = group_by_length
        self.generator = torch.Generator().manual_seed(seed)
        self.queue = torch.empty(0, dtype=torch.int64)

    @override
    def next(self) -> Batch:
        if self.packed is not None:
            return self._packed(self.packed)
        while len(self.queue) < self.batch_size:
            self.queue = torch.cat([self.queue, self._epoch()])
        chosen, self.queue = self.queue[: self.batch_size], self.queue[self.batch_size :]
        return collate([self.examples[number] for number in chosen.tolist()], self.pad)

    def _packed(self, cutoff: int) -> Batch:
        """Return a batch of as many examples as fit into its rows."""
        lengths: list[int] = []
        while True:
            if len(lengths) == len(self.queue):
                self.queue = torch.cat([self.queue, self._epoch()])
            number = int(self.queue[len(lengths)])
            longer = [*lengths, len(self.examples[number].ids)]
            if len(fill(longer, cutoff)) > self.batch_size:
                break
            lengths = longer
        chosen, self.queue = self.queue[: len(lengths)], self.queue[len(lengths) :]
        examples = [self.examples[number] for number in chosen.tolist()]
        return pack(examples, self.batch_size, cutoff, self.pad)

    def _epoch(self) -> Tensor:
        order = torch.randperm(len(self.examples), generator=self.generator)
        if not self.group_by_length:
            return order
        pieces = []
        for megabatch in order.split(MEGABATCH * self.batch_size):
            lengths = torch.tensor([len(self.examples[n].ids) for n in megabatch.tolist()])
            megabatch = megabatch[lengths.argsort(descending=True, stable=True)]
            batches = megabatch.split(self.batch_size)
            shuffled = torch.randperm(len(batches), generator=self.generator).tolist()
            # The last batch may be smaller; the next epoch fills it up.
            shuffled.sort(key=lambda n, sizes=batches: len(sizes[n]) < self.batch_size)
            pieces += [batches[n] for n in shuffled]
        return torch.cat(pieces)

    @override
    def state(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state(), "queue": self.queue.clone()}

    @override
    def restore(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])
        self.queue = state["queue"].clone()
