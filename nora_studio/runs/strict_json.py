"""Strict JSON, which all readers read alike: no repeated names, and only finite numbers."""

import json
from typing import Any

_MOST_DIGITS = 20
"""Digits of the largest 64-bit whole number; longer ones would overflow later."""


JsonObject = dict[str, Any]
"""An object of a JSON or TOML file; its values are checked where they are used."""


def parse_json(text: str | bytes) -> Any:
    """Parse JSON from an untrusted source.

    For a repeated name Python keeps the last value and other readers the first; and Python accepts
    NaN, for which checks against limits do not work. Both are refused here.

    Raises:
        ValueError: the text is not JSON, repeats a name, or holds a number that is not finite.
        RecursionError: the text is nested too deeply.
    """
    return json.loads(
        text,
        object_pairs_hook=_unique,
        parse_constant=_finite,
        parse_float=_finite,
        parse_int=_short,
    )


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"it has the name {twice[:200]!r} twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:  # NaN or infinity, also from a number too large for a float.
        raise ValueError(f"it has the number {text[:30]}, which is not finite")
    return number


def _short(text: str) -> int:
    if len(text.lstrip("-")) > _MOST_DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits; {_MOST_DIGITS} are allowed")
    return int(text)
