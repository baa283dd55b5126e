"""The facts of a small everyday world, divided into parts for different questions.

A fact is a subject, a relation and its value, one value for each subject and relation, so that any
other value is wrong. Every fact belongs to one of three parts by a hash of itself: the facts of the
corpus's quizzes ("quiz"), of the training questions ("train") and of the test questions
("test"). The corpus states all of them.
"""

import functools
import hashlib
import random
from dataclasses import dataclass

from nora_studio.mini.everyday.happenings import CAUSES, PROCEDURES, SITUATIONS
from nora_studio.mini.everyday.living import ANIMALS, JOBS
from nora_studio.mini.everyday.things import FOODS, MATERIALS, OBJECTS, measured_things, rows

PARTS = ("quiz", "train", "test")
_TENTHS = {"quiz": 4, "train": 4, "test": 2}
COMPARISONS = 700
"""Pairs of objects compared by weight, and as many by length."""
_CLEARLY = {"heavier": 2.0, "longer": 1.5}
"""Minimal ratio of the larger value to the smaller one."""

_COLUMNS = {
    OBJECTS: ("kind", "material", "place", "use"),
    MATERIALS: ("look", "in water", "in fire", "source"),
    FOODS: ("food kind", "taste", "colour", "origin"),
    ANIMALS: ("class", "home", "prey", "young", "sound"),
    JOBS: ("workplace", "equipment", "work"),
    CAUSES: ("effect",),
    SITUATIONS: ("feeling", "before", "next"),
}


@dataclass(frozen=True)
class Fact:
    """One fact: a subject, a relation and its value."""

    subject: str
    relation: str
    value: str
    way: str = ""
    """For procedures: how it is done, "{}" standing for the value."""

    @property
    def part(self) -> str:
        """One of `PARTS`: the questions in which the fact may be asked about."""
        ends = sorted((self.subject, self.value)) if self.relation in _CLEARLY else [self.subject]
        digest = hashlib.sha256("|".join([self.relation, *ends]).encode()).digest()
        place = int.from_bytes(digest[:4], "big") % sum(_TENTHS.values())
        for part, share in _TENTHS.items():
            place -= share
            if place < 0:
                return part
        raise AssertionError("shares do not add up")


@functools.cache
def all_facts() -> tuple[Fact, ...]:
    """Return every fact, in a fixed order."""
    facts = [
        Fact(cells[0], relation, cells[1 + column])
        for table, relations in _COLUMNS.items()
        for cells in rows(table)
        for column, relation in enumerate(relations)
    ]
    facts += [Fact(goal, "means", thing, way) for goal, way, thing in rows(PROCEDURES)]
    return (*facts, *_comparisons())


def _comparisons() -> list[Fact]:
    """Return pairs of objects of which one is clearly heavier or longer; always the same ones."""
    rng, things = random.Random(0), measured_things()
    facts: list[Fact] = []
    for relation, ratio in _CLEARLY.items():
        found: set[tuple[str, str]] = set()
        while len(found) < COMPARISONS:
            one, other = rng.sample(things, 2)
            pair = (one.grams, other.grams)
            if relation == "longer":
                pair = (one.centimetres, other.centimetres)
            if pair[0] >= ratio * pair[1]:
                found.add((one.name, other.name))
        facts += [Fact(more, relation, less) for more, less in sorted(found)]
    return facts


@functools.cache
def facts_of(relation: str, part: str | None = None) -> tuple[Fact, ...]:
    """Return the facts of a relation, of one part or of all."""
    return tuple(
        fact
        for fact in all_facts()
        if fact.relation == relation and (part is None or fact.part == part)
    )


@functools.cache
def values_of(relation: str) -> tuple[str, ...]:
    """Return every value that a relation takes, each once."""
    return tuple(dict.fromkeys(fact.value for fact in facts_of(relation)))


@functools.cache
def subjects() -> tuple[tuple[Fact, ...], ...]:
    """Return the facts of each subject, comparisons left out."""
    groups: dict[str, list[Fact]] = {}
    for fact in all_facts():
        if fact.relation not in _CLEARLY:
            groups.setdefault(fact.subject, []).append(fact)
    return tuple(tuple(group) for group in groups.values())
