"""Encode rows as token ids with labels, and batch them, padded on the left or packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nora_studio.mini.everyday.questions import Row
from nora_studio.tasks.commonsense.prompts import training_prompt

Batch = dict[str, Tensor]
IGNORED = -100
"""Label of tokens that are left out of the loss."""
MULTIPLE = 8
"""Batches are padded to a multiple of this many tokens, as in LLM-Adapters."""


@dataclass(frozen=True)
class Example:
    """A row as token ids."""

    ids: tuple[int, ...]
    learned_from: int
    """Index of the first token in the loss; token 0 never is, as nothing precedes it."""


def encode(row: Row, tokenizer: Any, cutoff: int, train_on_inputs: bool) -> Example:
    """Encode a row's prompt and answer in at most `cutoff` tokens, with an end token if it fits.

    Source: LLM-Adapters' finetune.py. Without `train_on_inputs`, the loss leaves out as many tokens
    as the prompt without its answer has.
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
        input_ids, labels, attention_mask, position_ids (batch, tokens), and share (batch,): factor
        of a row's summed loss that makes the mean over rows equal to the mean over tokens.
    """
    longest = max(len(example.ids) for example in examples)
    length = -(-longest // MULTIPLE) * MULTIPLE
    ids = torch.full((len(examples), length), pad)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        begin = length - len(example.ids)
        ids[row, begin:] = torch.tensor(example.ids)
        # The first token is not predicted. LLM-Adapters labels it too, so that padded rows predict
        # it from padding, and other rows do not.
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
    """Pack examples into rows of `cutoff` tokens; each attends only to itself.

    Positions restart at each example, by which transformers separates them, so there is no
    attention mask. The rest of a row is another piece, which is not in the loss.

    Args:
        examples: As many as fit, in the order of `fill`.
        rows: Number of rows.
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
    """Return each row's examples by index: in order, with a new row when one does not fit."""
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
    """Return the number of rows over that of labels in the loss, for every row: (batch,)."""
    learned = (labels[:, 1:] != IGNORED).sum().clamp(min=1)
    return (len(labels) / learned).expand(len(labels)).clone().float()
