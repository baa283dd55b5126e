"""A fact as a sentence, as a question with choices, or as a doubt."""

import random
from dataclasses import dataclass

from nora_studio.mini.everyday.facts import Fact, facts_of, values_of
from nora_studio.mini.everyday.happenings import NAMES
from nora_studio.mini.everyday.wording import WORDINGS, with_article

OPPOSITES = {"heavier": ("heavier", "lighter"), "longer": ("longer", "shorter")}


@dataclass(frozen=True)
class Choice:
    """A question and what may be its answer."""

    question: str
    options: tuple[str, ...]
    correct: int
    """Number of the right option, from 0."""


def filled(template: str, fact: Fact, name: str = "", value: str | None = None) -> str:
    """Fill a template of `WORDINGS` with a fact's words, the first letter large.

    Args:
        name: Of the person it happened to.
        value: In the place of the fact's own.
    """
    value = fact.value if value is None else value
    subject, its = with_article(fact.subject), with_article(value)
    text = template.format(
        s=fact.subject,
        a=subject,
        A=subject,
        v=value,
        w=its,
        W=its,
        n=name,
        way=fact.way.format(value),
    )
    return text[0].upper() + text[1:]


def statement(draw: random.Random, fact: Fact) -> str:
    """One sentence, or two, that say what is so."""
    name = draw.choice(NAMES.split())
    return filled(draw.choice(WORDINGS[fact.relation].statements), fact, name)


def doubt(draw: random.Random, fact: Fact) -> tuple[str, bool]:
    """Write a question to be answered with yes or no, without its mark, and return the answer."""
    is_so = draw.random() < 0.5
    if fact.relation in OPPOSITES:
        turned = fact if is_so else Fact(fact.value, fact.relation, fact.subject)
        return filled(WORDINGS[fact.relation].check, turned), is_so
    value = fact.value if is_so else draw.choice(_others(fact))
    return filled(WORDINGS[fact.relation].check, fact, value=value), is_so


def forward(draw: random.Random, fact: Fact, options: int) -> Choice:
    """Asked for the value, among other values of the relation."""
    name = draw.choice(NAMES.split())
    wrong = draw.sample(_others(fact), options - 1)
    return _shuffled(draw, filled(WORDINGS[fact.relation].ask, fact, name), fact.value, wrong)


def backward(draw: random.Random, fact: Fact, options: int) -> Choice:
    """Asked for the subject, among others of the same part of the facts with another value."""
    others = facts_of(fact.relation, fact.part)
    names = sorted({other.subject for other in others if other.value != fact.value})
    wrong = [named(name, fact) for name in draw.sample(names, options - 1)]
    question = filled(WORDINGS[fact.relation].reverse, fact)
    return _shuffled(draw, question, named(fact.subject, fact), wrong)


def can_go_backward(fact: Fact, options: int) -> bool:
    """Whether there are enough subjects that would be wrong."""
    if not WORDINGS[fact.relation].reverse:
        return False
    others = facts_of(fact.relation, fact.part)
    return len({other.subject for other in others if other.value != fact.value}) >= options - 1


def can_go_forward(fact: Fact, options: int) -> bool:
    """Whether there are enough values that would be wrong."""
    return bool(WORDINGS[fact.relation].ask) and len(_others(fact)) >= options - 1


def procedure(draw: random.Random, fact: Fact) -> Choice:
    """How something is done, and the same with the wrong thing."""
    wrong = draw.choice(_others(fact))
    ways = (fact.way.format(value) for value in (fact.value, wrong))
    right, other = (way[0].upper() + way[1:] + "." for way in ways)
    return _shuffled(draw, fact.subject, right, [other])


def comparison(draw: random.Random, fact: Fact) -> Choice:
    """Write a sentence with a gap for the one of two people whose thing is heavier or lighter."""
    first, second = draw.sample(NAMES.split(), 2)
    more, less = with_article(fact.subject), with_article(fact.value)
    word = draw.choice(OPPOSITES[fact.relation])
    wins = first if word == fact.relation else second
    holders = [(first, more), (second, less)]
    draw.shuffle(holders)
    (one, its), (other, theirs) = holders
    sentence = f"{one} has {its} and {other} has {theirs}, so _ has the {word} thing."
    names = [one, other]
    draw.shuffle(names)
    return Choice(sentence, tuple(names), names.index(wins))


def _others(fact: Fact) -> list[str]:
    return [value for value in values_of(fact.relation) if value != fact.value]


def named(subject: str, fact: Fact) -> str:
    """Return a subject as an answer: whole happenings as they are, things with their article."""
    if fact.relation in ("effect", "look", "in water", "in fire", "source"):
        return subject
    return with_article(subject)


def _shuffled(draw: random.Random, question: str, right: str, wrong: list[str]) -> Choice:
    options = [right, *wrong]
    draw.shuffle(options)
    return Choice(question, tuple(options), options.index(right))
