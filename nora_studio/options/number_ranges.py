"""Ranges of numbers in options, the same for the command line, files and pages."""

import math
import os
import secrets

from nora_studio.errors import StudioError, format_value

MAXIMUM_SEED = 2**32 - 1
"""The largest seed that every generator here accepts, and a page's number field keeps exactly."""
RANDOM_SEED = -1
"""Stands for a random seed; the sampled seed is recorded."""
MAXIMUM_COUNT = 10**12
"""Largest whole number in any option, such as steps, pixels or ranks."""
_MAY_BE_INFINITE = {"max_gradient_norm"}
_AT_LEAST_ONE = {"steps", "size", "rank", "outer_rank"}
_MOST_CHARACTERS = 40
_SEEDS = {"seed", "sample_seed", "seeds"}


def checked_number(value: int | float, name: str, what: str) -> int | float:
    """Return a number if it is in its option's range; a seed of -1 becomes a random one.

    Args:
        name: The option's field, such as "sample_seed".
        what: Its name in messages, such as "--sample-seed".

    Raises:
        StudioError: the number is out of range, infinite, or not a number.
    """
    if name in _SEEDS:
        return _seed(value, what)
    if isinstance(value, int):
        least = 1 if name in _AT_LEAST_ONE else -MAXIMUM_COUNT
        if not least <= value <= MAXIMUM_COUNT:
            raise StudioError(
                f"{what}: expected a whole number from {least:,} to {MAXIMUM_COUNT:,}; got "
                f"{format_value(value)}."
            )
    elif math.isnan(value) or (math.isinf(value) and name not in _MAY_BE_INFINITE):
        raise StudioError(f"{what}: expected a finite number; got {value}.")
    return value


def _seed(value: int | float, what: str) -> int:
    if value == RANDOM_SEED:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise StudioError(
                f"{what} -1: several processes would each choose another seed. Give a seed from 0 "
                f"to {MAXIMUM_SEED}."
            )
        return secrets.randbelow(MAXIMUM_SEED + 1)
    if not (isinstance(value, int) and 0 <= value <= MAXIMUM_SEED):
        raise StudioError(
            f"{what}: expected a whole number from 0 to {MAXIMUM_SEED}, or -1 for a random seed; "
            f"got {format_value(value)}."
        )
    return value


def check_is_number(word: str, kind: type[int] | type[float], what: str) -> None:
    """Refuse a word of a command line that is not a number of a type.

    Raises:
        StudioError: it is not such a number.
    """
    try:
        if len(word) > _MOST_CHARACTERS:  # Python itself refuses thousands of digits.
            raise ValueError
        kind(word)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise StudioError(f"{what}: expected {expected}; got {format_value(word)}.") from None
