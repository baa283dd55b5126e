"""JSON as one reader and another read it alike: no name twice, and every number finite."""

import json
from typing import Any

_MOST_DIGITS = 20
"""Of a whole number: those of 64 bits. Longer ones overflow where they are used."""


def parse_json(text: str | bytes) -> Any:
    """Read JSON that a stranger may have written.

    Python keeps the last of two values of one name, other readers the first; and it takes NaN,
    which is neither within nor beyond any limit.

    Raises:
        ValueError: it is no JSON, repeats a name, or holds a number that is not finite.
        RecursionError: it is nested without end.
    """
    return json.loads(
        text,
        object_pairs_hook=_unique,
        parse_constant=_finite,
        parse_float=_finite,
        parse_int=_short,
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"it holds {twice[:200]!r} twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:  # NaN and both infinities, a number too large for a float among them
        raise ValueError(f"it holds the number {text[:30]}, which is not finite")
    return number


def _short(text: str) -> int:
    if len(text.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)
