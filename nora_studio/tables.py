"""What the paper's tables share: checks of what they are asked for, and a mean's interval."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nora_studio.errors import StudioError

# Student's t at 97.5%, by degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL = 1.96


def check_each_once(flag: str, values: Sequence[object]) -> None:
    """Refuse no values, and any that is there twice.

    Raises:
        StudioError: the values of `flag` are so.
    """
    if not values or len(set(values)) < len(values):
        raise StudioError(f"{flag}: expected at least one, each once; got {values}.")


def check_options(words: Sequence[str], taken: Collection[str]) -> None:
    """Refuse options for every run, such as "dataset=dtd", that the table sets itself.

    Args:
        taken: Their names, with underscores.

    Raises:
        StudioError: one is among them.
    """
    named = {word.partition("=")[0].replace("-", "_") for word in words} & set(taken)
    if named:
        raise StudioError(
            f"--options: {', '.join(sorted(named))}: set by the table itself. Leave it out."
        )


def check_settings(file: Path, began: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse what was made under other settings than the table is asked for.

    Args:
        file: Where it is kept, for the message.
        began: The settings that it was made under.

    Raises:
        StudioError: one differs; it is named with both values.
    """
    for name in sorted(began.keys() | settings.keys()):
        if began.get(name) != settings.get(name):
            raise StudioError(
                f"{file} was trained with {name} = {began.get(name)!r}; this table asks for "
                f"{settings.get(name)!r}. Cells of different settings do not go into one table: "
                "ask as before, or take another --out."
            )


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of its 95% interval by Student's t; None from a single value."""
    if len(values) < 2:
        return fmean(values), None
    freedom = len(values) - 1
    t = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL
    return fmean(values), t * stdev(values) / math.sqrt(len(values))
