"""Facts as statements, as questions with options, and as yes-or-no questions."""

import random
from dataclasses import dataclass

from nora_studio.mini.everyday.facts import Fact, facts_of, values_of
from nora_studio.mini.everyday.happenings import NAMES
from nora_studio.mini.everyday.wording import WORDINGS, with_article

OPPOSITES = {"heavier": ("heavier", "lighter"), "longer": ("longer", "shorter")}


@dataclass(frozen=True)
class Choice:
    """A question with its options."""

    question: str
    options: tuple[str, ...]
    correct: int
    """Index of the correct option, from 0."""


def fill_template(template: str, fact: Fact, name: str = "", value: str | None = None) -> str:
    """Fill a template of `WORDINGS` with a fact's words; the first letter becomes upper case.

    Args:
        name: Name of the person in the sentence.
        value: Value to use instead of the fact's own.
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


def statement(rng: random.Random, fact: Fact) -> str:
    """Write one or two sentences that state a fact."""
    name = rng.choice(NAMES.split())
    return fill_template(rng.choice(WORDINGS[fact.relation].statements), fact, name)


def yes_no_question(rng: random.Random, fact: Fact) -> tuple[str, bool]:
    """Write a yes-or-no question, without its question mark, and return it with the answer."""
    is_true = rng.random() < 0.5
    if fact.relation in OPPOSITES:
        turned = fact if is_true else Fact(fact.value, fact.relation, fact.subject)
        return fill_template(WORDINGS[fact.relation].check, turned), is_true
    value = fact.value if is_true else rng.choice(_other_values(fact))
    return fill_template(WORDINGS[fact.relation].check, fact, value=value), is_true


def value_question(rng: random.Random, fact: Fact, options: int) -> Choice:
    """Write a question for the value; the wrong options are other values of the relation."""
    name = rng.choice(NAMES.split())
    wrong = rng.sample(_other_values(fact), options - 1)
    return _shuffle_options(
        rng, fill_template(WORDINGS[fact.relation].ask, fact, name), fact.value, wrong
    )


def subject_question(rng: random.Random, fact: Fact, options: int) -> Choice:
    """Write a question for the subject; the wrong options are subjects of the same part."""
    others = facts_of(fact.relation, fact.part)
    names = sorted({other.subject for other in others if other.value != fact.value})
    wrong = [name_as_option(name, fact) for name in rng.sample(names, options - 1)]
    question = fill_template(WORDINGS[fact.relation].reverse, fact)
    return _shuffle_options(rng, question, name_as_option(fact.subject, fact), wrong)


def can_ask_subject(fact: Fact, options: int) -> bool:
    """Return whether the relation has enough wrong subjects."""
    if not WORDINGS[fact.relation].reverse:
        return False
    others = facts_of(fact.relation, fact.part)
    return len({other.subject for other in others if other.value != fact.value}) >= options - 1


def can_ask_value(fact: Fact, options: int) -> bool:
    """Return whether the relation has enough wrong values."""
    return bool(WORDINGS[fact.relation].ask) and len(_other_values(fact)) >= options - 1


def procedure(rng: random.Random, fact: Fact) -> Choice:
    """Write a choice between the right procedure and the same one with the wrong thing."""
    wrong = rng.choice(_other_values(fact))
    ways = (fact.way.format(value) for value in (fact.value, wrong))
    right, other = (way[0].upper() + way[1:] + "." for way in ways)
    return _shuffle_options(rng, fact.subject, right, [other])


def comparison(rng: random.Random, fact: Fact) -> Choice:
    """Write a sentence with a gap for one of two people: whose thing is heavier, for example."""
    first, second = rng.sample(NAMES.split(), 2)
    more, less = with_article(fact.subject), with_article(fact.value)
    word = rng.choice(OPPOSITES[fact.relation])
    answer = first if word == fact.relation else second
    holders = [(first, more), (second, less)]
    rng.shuffle(holders)
    (one, its), (other, theirs) = holders
    sentence = f"{one} has {its} and {other} has {theirs}, so _ has the {word} thing."
    names = [one, other]
    rng.shuffle(names)
    return Choice(sentence, tuple(names), names.index(answer))


def _other_values(fact: Fact) -> list[str]:
    return [value for value in values_of(fact.relation) if value != fact.value]


def name_as_option(subject: str, fact: Fact) -> str:
    """Write a subject as an option: events as they are, things with their article."""
    if fact.relation in ("effect", "look", "in water", "in fire", "source"):
        return subject
    return with_article(subject)


def _shuffle_options(rng: random.Random, question: str, right: str, wrong: list[str]) -> Choice:
    options = [right, *wrong]
    rng.shuffle(options)
    return Choice(question, tuple(options), options.index(right))
