"""Commonsense questions about the everyday world, in the eight formats of LLM-Adapters.

The wording around the questions is that of the public files (arXiv 2304.01933, commonsense tasks).
Every fact that a training question touches is of the part "train", every one of a test question of
the part "test": no question of the one can be answered from the other.
"""

import random
from collections.abc import Callable

from nora_studio.mini.everyday.facts import Fact, all_facts
from nora_studio.mini.everyday.phrases import (
    Choice,
    backward,
    can_go_backward,
    can_go_forward,
    comparison,
    doubt,
    forward,
    procedure,
)

Row = dict[str, str]

SETS = (
    "boolq",
    "piqa",
    "social_i_qa",
    "hellaswag",
    "winogrande",
    "ARC-Easy",
    "ARC-Challenge",
    "openbookqa",
)
"""In the order of the paper's tables."""

_HAPPENING = ("effect", "look", "in fire", "source", "origin", "use", "work")
_SOCIAL = ("feeling", "before", "next")
_THINGS = (
    "kind", "material", "place", "food kind", "taste", "colour", "class", "home", "prey", "young",
    "sound", "workplace", "equipment",
)  # fmt: skip


def questions(name: str, part: str, count: int, seed: int = 0) -> list[Row]:
    """Rows of one set, each question once, as the public files have them.

    Args:
        name: One of `SETS`.
        part: "train" or "test": whose facts are asked about.
        count: At most; fewer where the facts give no more.
    """
    draw = random.Random(f"{name}/{part}/{seed}")
    make, relations = _MAKERS[name]
    known = [fact for fact in all_facts() if fact.part == part and fact.relation in relations]
    rows: dict[str, Row] = {}
    for _ in range(10 * count):
        row = make(draw, draw.choice(known))
        if row is not None:
            rows.setdefault(row["instruction"], row)
    return _balanced(draw, list(rows.values()), count)


def _balanced(draw: random.Random, rows: list[Row], count: int) -> list[Row]:
    """Rows of which every answer is right equally often: a guess is worth its chance alone."""
    answers = sorted({row["answer"] for row in rows})
    groups = [[row for row in rows if row["answer"] == answer] for answer in answers]
    each = min(count // len(answers), *map(len, groups))
    kept = [row for group in groups for row in group[:each]]
    draw.shuffle(kept)
    return kept


def _row(instruction: str, answer: str) -> Row:
    return {
        "instruction": instruction,
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


def _boolq(draw: random.Random, fact: Fact) -> Row:
    question, is_so = doubt(draw, fact)
    question = question[0].lower() + question[1:]
    return _row(
        "Please answer the following question with true or false, question: "
        f"{question}?\n\nAnswer format: true/false",
        "true" if is_so else "false",
    )


def _piqa(draw: random.Random, fact: Fact) -> Row:
    choice = procedure(draw, fact)
    question = draw.choice(("How do I {}?", "How can one {}?", "To {},")).format(choice.question)
    first, second = choice.options
    return _row(
        f"Please choose the correct solution to the question: {question}\n\nSolution1: {first}\n\n"
        f"Solution2: {second}\n\nAnswer format: solution1/solution2",
        f"solution{choice.correct + 1}",
    )


def _winogrande(draw: random.Random, fact: Fact) -> Row:
    choice = comparison(draw, fact)
    first, second = choice.options
    return _row(
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        f"{choice.question}\n\nOption1: {first} Option2: {second} Answer format: option1/option2",
        f"option{choice.correct + 1}",
    )


def _hellaswag(draw: random.Random, fact: Fact) -> Row | None:
    if not can_go_forward(fact, 4):
        return None
    choice = forward(draw, fact, 4)
    begin = {
        "work": f"The {fact.subject} begins the day. All day long the {fact.subject}",
        "use": f"Somebody takes the {fact.subject} in order to",
        "effect": f"At first {fact.subject}. Then",
        "next": f"A person {fact.subject}. Next, this person wanted to",
    }[fact.relation]
    return _listed("complete the given sentence", "ending", begin, choice)


def _answers(options: int, directions: str) -> Callable[[random.Random, Fact], Row | None]:
    """Questions with numbered answers, for the value ("forward"), the subject, or either."""

    def make(draw: random.Random, fact: Fact) -> Row | None:
        back = directions == "backward" or (directions == "either" and draw.random() < 0.5)
        possible = can_go_backward if back else can_go_forward
        if not possible(fact, options):
            return None
        choice = (backward if back else forward)(draw, fact, options)
        return _listed("the question", "answer", choice.question, choice)

    return make


def _listed(what: str, label: str, question: str, choice: Choice) -> Row:
    """Write a question whose options stand in one line, as answers or as endings."""
    head = {
        "answer": "Please choose the correct answer to",
        "ending": "Please choose the correct ending to",
    }[label]
    numbers = range(1, len(choice.options) + 1)
    shown = " ".join(
        f"{label.title()}{n}: {text}" for n, text in zip(numbers, choice.options, strict=True)
    )
    names = "/".join(f"{label}{n}" for n in numbers)
    return _row(
        f"{head} {what}: {question}\n\n{shown}\n\nAnswer format: {names}",
        f"{label}{choice.correct + 1}",
    )


_MAKERS: dict[str, tuple[Callable[[random.Random, Fact], Row | None], tuple[str, ...]]] = {
    "boolq": (_boolq, (*_THINGS, *_HAPPENING, "in water")),
    "piqa": (_piqa, ("means",)),
    "social_i_qa": (_answers(3, "forward"), _SOCIAL),
    "hellaswag": (_hellaswag, ("work", "use", "effect", "next")),
    "winogrande": (_winogrande, ("heavier", "longer")),
    "ARC-Easy": (_answers(4, "forward"), _THINGS),
    "ARC-Challenge": (_answers(4, "backward"), _THINGS),
    "openbookqa": (_answers(4, "either"), _HAPPENING),
}
"""How a set's questions are made, and which relations they are about."""
