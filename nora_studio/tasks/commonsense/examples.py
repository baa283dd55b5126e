"""Rows as token ids with labels, and batches of them, padded on the left or packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nora_studio.mini.everyday.questions import Row
from nora_studio.tasks.commonsense.prompts import training_prompt

Batch = dict[str, Tensor]
IGNORED = -100
"""A label that no loss counts."""
MULTIPLE = 8
"""Batches are padded to a multiple of so many tokens, as LLM-Adapters' are."""


@dataclass(frozen=True)
class Example:
    """One row as the model learns it."""

    ids: tuple[int, ...]
    learned_from: int
    """Place of the first token whose prediction counts; the very first is never predicted."""


def encode(row: Row, tokenizer: Any, cutoff: int, train_on_inputs: bool) -> Example:
    """Encode a row's prompt and answer in at most `cutoff` tokens, the end token if there is room.

    Source: LLM-Adapters' finetune.py; without `train_on_inputs`, as many tokens are not learned as
    the prompt without its answer has.
    """
    ids = tokenizer(training_prompt(row), truncation=True, max_length=cutoff).input_ids
    if ids[-1] != tokenizer.eos_token_id and len(ids) < cutoff:
        ids = [*ids, tokenizer.eos_token_id]
    begin = 0
    if not train_on_inputs:
        prompt = training_prompt(row, with_answer=False)
        begin = len(tokenizer(prompt, truncation=True, max_length=cutoff).input_ids)
    return Example(tuple(ids), begin)


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """Collate examples into a batch, padded on the left.

    Returns:
        input_ids, labels, attention_mask, position_ids (batch, tokens), and share (batch,): what a
        row's summed loss is multiplied with, so that the mean over rows is that over tokens.
    """
    longest = max(len(example.ids) for example in examples)
    length = -(-longest // MULTIPLE) * MULTIPLE
    ids = torch.full((len(examples), length), pad)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        begin = length - len(example.ids)
        ids[row, begin:] = torch.tensor(example.ids)
        # The very first token is nobody's to predict. LLM-Adapters labels it too, which padded rows
        # then predict from their padding, and the others not.
        first = begin + max(1, example.learned_from)
        labels[row, first:] = ids[row, first:]
        mask[row, begin:] = 1
    return {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "share": _shares(labels),
    }


def pack(examples: Sequence[Example], rows: int, cutoff: int, pad: int) -> Batch:
    """Examples one after another in rows of `cutoff` tokens, each seeing itself alone.

    Positions begin anew with each example; that is how transformers tells them apart, so there is
    no attention mask. What is left of a row is one more, unlearned piece.

    Args:
        examples: That fit, in the order of `fill`.
        rows: Of the batch.
    """
    ids = torch.full((rows, cutoff), pad)
    labels = torch.full_like(ids, IGNORED)
    positions = torch.zeros_like(ids)
    for row, members in enumerate(fill([len(e.ids) for e in examples], cutoff)):
        begin = 0
        for example in (examples[member] for member in members):
            end = begin + len(example.ids)
            ids[row, begin:end] = torch.tensor(example.ids)
            first = begin + max(1, example.learned_from)
            labels[row, first:end] = ids[row, first:end]
            positions[row, begin:end] = torch.arange(end - begin)
            begin = end
        positions[row, begin:] = torch.arange(cutoff - begin)
    return {
        "input_ids": ids,
        "labels": labels,
        "position_ids": positions,
        "share": _shares(labels),
    }


def fill(lengths: Sequence[int], cutoff: int) -> list[list[int]]:
    """Which examples stand in which row: each in the current row, or in a new one if it is full."""
    rows: list[list[int]] = []
    left = 0
    for number, length in enumerate(lengths):
        if length > left:
            rows.append([])
            left = cutoff
        rows[-1].append(number)
        left -= length
    return rows


def _shares(labels: Tensor) -> Tensor:
    """(batch,): rows over the labels that are predicted in all of them, the same for every row."""
    learned = (labels[:, 1:] != IGNORED).sum().clamp(min=1)
    return (len(labels) / learned).expand(len(labels)).clone().float()
