"""The text that the embedded language model learns from: statements, lists, and a few quizzes.

Quizzes ask only about facts of the part "quiz", never in the form of the fine-tuning questions:
they teach multiple choice itself, and fine-tuning teaches the form of the answer.
Most texts hold several short quizzes of one form: in a long quiz, only
one token teaches how to choose, and with long quizzes alone, four million tokens taught a model
of five million weights the facts but not how to choose.
"""

import random
from collections.abc import Iterator

from nora_studio.mini.everyday.facts import Fact, all_facts, facts_of, subjects, values_of
from nora_studio.mini.everyday.phrases import (
    Choice,
    can_ask_subject,
    can_ask_value,
    comparison,
    name_as_option,
    procedure,
    statement,
    subject_question,
    value_question,
    yes_no_question,
)
from nora_studio.mini.everyday.wording import WORDINGS, with_article

SHARES = {
    "single quizzes": 0.12,
    "quizzes in a row": 0.28,
    "doubts in a row": 0.12,
    "lists": 0.05,
    "statements": 0.15,
    "subjects": 0.28,
}
"""Shares of the documents, by kind."""
QUIZ_SHARE = sum(share for name, share in SHARES.items() if "quizzes" in name or "doubts" in name)
_LABELS = ("abcdef", "ABCDEF", "123456", ("one", "two", "three", "four", "five", "six"))
_FRAMES = ("({}) {}", "{}) {}", "{}. {}", "{}: {}")
_WORDS = ("choice", "answer", "solution", "ending", "option")
"""Words for a label, in lower or title case."""


def documents(seed: int, count: int) -> Iterator[str]:
    """Yield texts of a few sentences each; the same texts for the same seed."""
    rng = random.Random(seed)
    quiz_facts = [fact for fact in all_facts() if fact.part == "quiz"]
    lists = [relation for relation, wording in WORDINGS.items() if wording.listing]
    for kind in rng.choices(list(SHARES), list(SHARES.values()), k=count):
        if kind == "single quizzes":
            chosen = (rng.choice(quiz_facts) for _ in range(rng.randint(1, 3)))
            make = riddle if rng.random() < 0.2 else quiz
            pairs = (make(rng, fact) for fact in chosen)
            yield "\n".join(f"{question}{reply}." for question, reply in pairs)
        elif kind == "quizzes in a row":
            yield _quizzes_in_a_row(rng, rng.sample(quiz_facts, rng.randint(3, 6)))
        elif kind == "doubts in a row":
            yield _yes_no_in_a_row(rng, rng.sample(quiz_facts, rng.randint(4, 7)))
        elif kind == "lists":
            yield _list(rng, rng.choice(lists))
        elif kind == "statements":
            yield " ".join(statement(rng, rng.choice(all_facts())) for _ in range(5))
        else:
            known = list(rng.choice(subjects()))
            rng.shuffle(known)
            yield " ".join(statement(rng, fact) for fact in known)


def _quizzes_in_a_row(rng: random.Random, facts: list[Fact]) -> str:
    """Write short quizzes with the same labels and, where facts allow, as many choices each."""
    labels, frame = rng.choice(_LABELS), rng.choice(_FRAMES)
    options, lines = rng.randint(2, 4), []
    for fact in facts:
        choice = _write_choice(rng, fact, options)
        shown = " ".join(
            frame.format(label, text) for label, text in zip(labels, choice.options, strict=False)
        )
        lines.append(f"{choice.question} {shown} Reply: {labels[choice.correct]}")
    return "\n".join(lines)


def _yes_no_in_a_row(rng: random.Random, facts: list[Fact]) -> str:
    words = rng.choice((("yes", "no"), ("true", "false")))
    pairs = (yes_no_question(rng, fact) for fact in facts)
    lines = (f"{question}? {words[not is_true]}" for question, is_true in pairs)
    return "\n".join([f"Say {words[0]} or {words[1]}:", *lines])


def _list(rng: random.Random, relation: str) -> str:
    """List all subjects of one value, or some of them."""
    value = rng.choice(values_of(relation))
    known = [fact for fact in facts_of(relation) if fact.value == value]
    some = rng.sample(known, min(len(known), rng.randint(1, 8)))
    its = with_article(value)
    start = WORDINGS[relation].listing.format(v=value, w=its, W=its[0].upper() + its[1:])
    return f"{start} {', '.join(name_as_option(fact.subject, fact) for fact in some)}."


def riddle(rng: random.Random, fact: Fact) -> tuple[str, str]:
    """Write a question without choices up to its reply, and return it with the reply."""
    if not WORDINGS[fact.relation].ask:
        return quiz(rng, fact)
    choice = value_question(rng, fact, 1)
    return f"Question: {choice.question} Reply:", f" {choice.options[0]}"


def quiz(rng: random.Random, fact: Fact) -> tuple[str, str]:
    """Write a quiz up to its reply; the reply is the right label, yes or no, or true or false."""
    if rng.random() < 0.25 or fact.relation == "in water":
        question, is_true = yes_no_question(rng, fact)
        if rng.random() < 0.5:
            return f"{question}? Say true or false:", " true" if is_true else " false"
        return f"{question}? Say yes or no:", " yes" if is_true else " no"
    choice, labels, frame = (
        _write_choice(rng, fact, rng.randint(2, 5)),
        rng.choice(_LABELS),
        rng.choice(_FRAMES),
    )
    word = f"{rng.choice(_WORDS)} " if rng.random() < 0.5 else ""
    shown_word = word.title() if rng.random() < 0.5 else word
    between = rng.choice((" ", "\n", "; "))
    shown = between.join(
        shown_word + frame.format(label, option)
        for label, option in zip(labels, choice.options, strict=False)
    )
    lead = rng.choice(("Quiz. ", "Riddle. ", "Which is correct? ", ""))
    question = f"{lead}{choice.question}{between}{shown}{between}Reply: {word}".rstrip()
    return question, f" {labels[choice.correct]}"


def _write_choice(rng: random.Random, fact: Fact, options: int) -> Choice:
    """Write a question with the given number of choices, or with fewer if there are no more."""
    if fact.relation in ("heavier", "longer"):
        return comparison(rng, fact)
    if fact.relation == "means" and rng.random() < 0.6:
        return procedure(rng, fact)
    if can_ask_subject(fact, options) and rng.random() < 0.5:
        return subject_question(rng, fact, options)
    while not can_ask_value(fact, options):
        options -= 1
    return value_question(rng, fact, options)
