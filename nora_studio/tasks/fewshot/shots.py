"""Which pictures a few-shot run learns from: drawn for each class by a seed."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from nora_studio.errors import StudioError

MOST_VALIDATION = 4
Picture = TypeVar("Picture")
Labelled = list[tuple[Picture, int]]


def draw_shots(
    train: Sequence[tuple[Picture, int]],
    validation: Sequence[tuple[Picture, int]],
    shots: int,
    seed: int,
) -> tuple[Labelled[Picture], Labelled[Picture]]:
    """`shots` pictures of each class to train on, and min(shots, 4), or all, to validate on.

    The validation's are drawn first, from one generator for both, and classes come in the order
    in which the split names them, as in CLIP-LoRA's code and Tip-Adapter's before it.

    Returns:
        Training and validation pictures, class by class.

    Raises:
        StudioError: a class has fewer pictures.
    """
    random = Random(seed)
    chosen_validation = _of_each(validation, min(shots, MOST_VALIDATION), random)
    for label, found in _by_class(train).items():
        if len(found) < shots:
            raise StudioError(
                f"--shots: expected at least {shots} training pictures of each class; class "
                f"{label} has {len(found)}. Lower --shots."
            )
    return _of_each(train, shots, random), chosen_validation


def _by_class(pictures: Sequence[tuple[Picture, int]]) -> dict[int, list[Picture]]:
    classes: dict[int, list[Picture]] = {}
    for picture, label in pictures:
        classes.setdefault(label, []).append(picture)
    return classes


def _of_each(
    pictures: Sequence[tuple[Picture, int]], count: int, random: Random
) -> Labelled[Picture]:
    return [
        (picture, label)
        for label, found in _by_class(pictures).items()
        for picture in random.sample(found, min(count, len(found)))
    ]


def divide(
    pictures: Sequence[tuple[Picture, int]], seed: int = 0
) -> tuple[Labelled[Picture], Labelled[Picture], Labelled[Picture]]:
    """Split a set without splits: half to train, a fifth to validate, the rest to test.

    Each class by itself, by a generator of this seed, so that the same pictures always part alike.

    Raises:
        StudioError: a class has too few pictures for one in each.
    """
    random = Random(seed)
    classes = _by_class(pictures)
    train: Labelled[Picture] = []
    validation: Labelled[Picture] = []
    test: Labelled[Picture] = []
    for label in sorted(classes):
        found = random.sample(classes[label], len(classes[label]))
        if len(found) < 3:
            raise StudioError(
                f"--dataset: expected at least 3 pictures of each class, to train, validate and "
                f"test; class {label} has {len(found)}. Add some, or take the class's folder away."
            )
        a, b = max(1, len(found) // 2), max(1, len(found) // 5)
        parts = (found[:a], found[a : a + b], found[a + b :])
        for split, own in zip((train, validation, test), parts, strict=True):
            split += [(picture, label) for picture in own]
    return train, validation, test
