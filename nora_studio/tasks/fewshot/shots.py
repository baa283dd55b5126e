"""Sample the images that a few-shot run trains on, for each class, with a seed."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from nora_studio.errors import StudioError

MOST_VALIDATION = 4
Picture = TypeVar("Picture")
Labelled = list[tuple[Picture, int]]


def sample_shots(
    train: Sequence[tuple[Picture, int]],
    validation: Sequence[tuple[Picture, int]],
    shots: int,
    seed: int,
) -> tuple[Labelled[Picture], Labelled[Picture]]:
    """Sample `shots` images of each class to train on, and at most min(shots, 4) to validate on.

    The validation images are sampled first, from the same generator, with classes in the order of
    the split, as in CLIP-LoRA's code and Tip-Adapter's before it.

    Returns:
        Training and validation images, class by class.

    Raises:
        StudioError: a class has fewer training images.
    """
    random = Random(seed)
    chosen_validation = _of_each(validation, min(shots, MOST_VALIDATION), random)
    for label, found in _by_class(train).items():
        if len(found) < shots:
            raise StudioError(
                f"--shots: expected at least {shots} training images of each class; class "
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
    """Split a set: half of each class to train, a fifth to validate, the rest to test.

    The same images and seed always give the same split.

    Raises:
        StudioError: a class has too few images for one in each.
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
                f"--dataset: expected at least 3 images of each class, to train, validate and "
                f"test; class {label} has {len(found)}. Add some, or remove the class's folder."
            )
        a, b = max(1, len(found) // 2), max(1, len(found) // 5)
        parts = (found[:a], found[a : a + b], found[a + b :])
        for split, own in zip((train, validation, test), parts, strict=True):
            split += [(picture, label) for picture in own]
    return train, validation, test
