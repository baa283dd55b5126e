"""Get a language model's answers: generated in batches, or the likeliest of those offered."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from nora_studio.mini.everyday.questions import Row
from nora_studio.tasks.commonsense.answers import extract_answer, offered
from nora_studio.tasks.commonsense.prompts import evaluation_prompt, response_in

BEAMS = 4
NEW_TOKENS = 32
"""Maximum number of generated tokens, as in LLM-Adapters."""


@dataclass(frozen=True)
class Question:
    """A row of a set."""

    name: str
    """Name of the set."""
    number: int
    """Index of the row, from 0."""
    row: Row


@dataclass(frozen=True)
class Answer:
    """A model's answer to a question."""

    name: str
    number: int
    output: str
    """The model's response; by likelihood, only the label."""
    prediction: str
    """A label; empty if the response has none."""
    answer: str
    """The right label."""


@dataclass(frozen=True)
class Model:
    """A language model with its tokenizer and device."""

    decoder: Any
    tokenizer: Any
    device: torch.device
    autocast: torch.dtype | None = None
    """None to compute in the weights' dtype."""


def batches(questions: Sequence[Question], size: int, tokenizer: Any) -> Iterator[list[Question]]:
    """Yield batches of questions by length, the longest first, so that memory runs out early."""
    lengths = {
        (q.name, q.number): len(tokenizer(evaluation_prompt(q.row)).input_ids) for q in questions
    }
    ordered = sorted(questions, key=lambda q: (-lengths[q.name, q.number], q.name, q.number))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


@torch.no_grad()
def generate(model: Model, questions: Sequence[Question]) -> list[Answer]:
    """Generate answers by beam search, as `commonsense_evaluate.py` does one by one.

    Prompts are padded on the left; the mask hides the padding, and positions start at each prompt,
    so that answers do not depend on the batch.
    """
    prompts = [evaluation_prompt(question.row) for question in questions]
    encoded = model.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    config = GenerationConfig(
        num_beams=BEAMS,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=model.tokenizer.pad_token_id,
        bos_token_id=model.tokenizer.bos_token_id,
        eos_token_id=model.tokenizer.eos_token_id,
    )
    with _autocast(model):
        sequences = model.decoder.generate(
            input_ids=encoded.input_ids.to(model.device),
            attention_mask=encoded.attention_mask.to(model.device),
            generation_config=config,
        )
    texts = model.tokenizer.batch_decode(sequences, skip_special_tokens=True)
    return [
        _answer(question, output, extract_answer(question.name, output))
        for question, output in zip(questions, map(response_in, texts), strict=True)
    ]


@torch.no_grad()
def choose_likeliest(model: Model, questions: Sequence[Question]) -> list[Answer]:
    """Return for each question the offered label whose whole answer is likeliest."""
    rows: list[list[int]] = []
    begins: list[int] = []
    for question in questions:
        prompt = evaluation_prompt(question.row)
        plain = model.tokenizer(prompt).input_ids
        for label in offered(question.row):
            ids = model.tokenizer(f"{prompt}the correct answer is {label}").input_ids
            same = [one == other for one, other in zip(plain, ids, strict=False)]
            begins.append(same.index(False) if False in same else len(plain))
            rows.append(ids)
    scores = iter(_log_likelihoods(model, rows, begins).tolist())
    answers = []
    for question in questions:
        labels = offered(question.row)
        likelihood = {label: next(scores) for label in labels}
        best = max(labels, key=lambda label: likelihood[label])
        answers.append(_answer(question, best, best))
    return answers


def _log_likelihoods(model: Model, rows: list[list[int]], begins: list[int]) -> Tensor:
    """Return the log-likelihood of each text from one of its tokens on: (rows,), float32."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), model.tokenizer.pad_token_id)
    counts = torch.zeros(len(rows), longest)
    for number, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        # Padded on the right, which causal attention ignores.
        ids[number, : len(row)] = torch.tensor(row)
        counts[number, begin : len(row)] = 1
    ids, counts = ids.to(model.device), counts.to(model.device)
    with _autocast(model):
        logits = model.decoder(input_ids=ids, use_cache=False).logits[:, :-1]
    chosen = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (chosen * counts[:, 1:]).sum(dim=1).cpu()


def _answer(question: Question, output: str, prediction: str) -> Answer:
    return Answer(question.name, question.number, output, prediction, question.row["answer"])


def _autocast(model: Model) -> torch.autocast:
    return torch.autocast(
        model.device.type, model.autocast or torch.bfloat16, enabled=model.autocast is not None
    )


SCORINGS: dict[str, Callable[[Model, Sequence[Question]], list[Answer]]] = {
    "generation": generate,
    "likelihood": choose_likeliest,
}
"""Functions that get answers, by the name of the method."""
