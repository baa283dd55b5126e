"""Commonsense questions about the everyday world, in the eight formats of LLM-Adapters.

The wording around the questions is that of the public files (arXiv 2304.01933, commonsense tasks).
All facts behind a training question are of the part "train", all behind a test question of the
part "test": no question of one part can be answered from the other.
"""

import random
from collections.abc import Callable

from nora_studio.mini.everyday.facts import Fact, all_facts
from nora_studio.mini.everyday.phrases import (
    Choice,
    can_ask_subject,
    can_ask_value,
    comparison,
    procedure,
    subject_question,
    value_question,
    yes_no_question,
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
"""The sets, in the order of the paper's tables."""

_HAPPENING = ("effect", "look", "in fire", "source", "origin", "use", "work")
_SOCIAL = ("feeling", "before", "next")
_THINGS = (
    "kind", "material", "place", "food kind", "taste", "colour", "class", "home", "prey", "young",
    "sound", "workplace", "equipment",
)  # fmt: skip


def questions(name: str, part: str, count: int, seed: int = 0) -> list[Row]:
    """Return the rows of one set, without repeated questions, in the public files' format.

    Args:
        name: One of `SETS`.
        part: "train" or "test": the part of the facts.
        count: Maximum number of rows; fewer if the facts allow no more.
    """
    rng = random.Random(f"{name}/{part}/{seed}")
    make, relations = _MAKERS[name]
    known = [fact for fact in all_facts() if fact.part == part and fact.relation in relations]
    unique: dict[str, Row] = {}
    for _ in range(10 * count):
        row = make(rng, rng.choice(known))
        if row is not None:
            unique.setdefault(row["instruction"], row)
    return _balance(rng, list(unique.values()), count)


def _balance(rng: random.Random, rows: list[Row], count: int) -> list[Row]:
    """Return rows in which all answers are equally frequent, so that guessing gains nothing."""
    answers = sorted({row["answer"] for row in rows})
    groups = [[row for row in rows if row["answer"] == answer] for answer in answers]
    each = min(count // len(answers), *map(len, groups))
    kept = [row for group in groups for row in group[:each]]
    rng.shuffle(kept)
    return kept


def _row(instruction: str, answer: str) -> Row:
    return {
        "instruction": instruction,
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


def _boolq(rng: random.Random, fact: Fact) -> Row:
    question, is_true = yes_no_question(rng, fact)
    question = question[0].lower() + question[1:]
    return _row(
        "Please answer the following question with true or false, question: "
        f"{question}?\n\nAnswer format: true/false",
        "true" if is_true else "false",
    )


def _piqa(rng: random.Random, fact: Fact) -> Row:
    choice = procedure(rng, fact)
    question = rng.choice(("How do I {}?", "How can one {}?", "To {},")).format(choice.question)
    first, second = choice.options
    return _row(
        f"Please choose the correct solution to the question: {question}\n\nSolution1: {first}\n\n"
        f"Solution2: {second}\n\nAnswer format: solution1/solution2",
        f"solution{choice.correct + 1}",
    )


def _winogrande(rng: random.Random, fact: Fact) -> Row:
    choice = comparison(rng, fact)
    first, second = choice.options
    return _row(
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        f"{choice.question}\n\nOption1: {first} Option2: {second} Answer format: option1/option2",
        f"option{choice.correct + 1}",
    )


def _hellaswag(rng: random.Random, fact: Fact) -> Row | None:
    if not can_ask_value(fact, 4):
        return None
    choice = value_question(rng, fact, 4)
    begin = {
        "work": f"The {fact.subject} begins the day. All day long the {fact.subject}",
        "use": f"Somebody takes the {fact.subject} in order to",
        "effect": f"At first {fact.subject}. Then",
        "next": f"A person {fact.subject}. Next, this person wanted to",
    }[fact.relation]
    return _list_options("complete the given sentence", "ending", begin, choice)


def _answers(options: int, directions: str) -> Callable[[random.Random, Fact], Row | None]:
    """Return a writer of numbered questions for the value ("forward"), the subject, or either."""

    def make(rng: random.Random, fact: Fact) -> Row | None:
        is_backward = directions == "backward" or (directions == "either" and rng.random() < 0.5)
        possible = can_ask_subject if is_backward else can_ask_value
        if not possible(fact, options):
            return None
        choice = (subject_question if is_backward else value_question)(rng, fact, options)
        return _list_options("the question", "answer", choice.question, choice)

    return make


def _list_options(what: str, label: str, question: str, choice: Choice) -> Row:
    """Write a question whose options are listed in one line, as answers or as endings."""
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
"""For each set: the function that writes a row, and the relations of its facts."""
