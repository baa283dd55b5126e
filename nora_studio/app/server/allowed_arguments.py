"""Check a command's arguments before a parser sees them: only the trainer's options may pass.

A parser has options of its own: tyro writes shell completions into any file that its first argument
names, before it looks at the rest. So every argument that a page sends is checked against a list of
allowed ones before a parser sees it, here and in the process that runs it.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

from nora_studio.errors import StudioError, format_value, suggestion
from nora_studio.options.command_line import option_hints
from nora_studio.options.paths import check_relative, check_text

MAX_WORDS = 500
MAX_CHARACTERS = 8_000
"""Characters of all arguments together."""
MAX_DIGITS = 18
"""Digits of a whole number, so that it fits into 64 bits."""
MAX_NUMBER_CHARACTERS = 32
"""Characters of any other number."""
HELP = ("-h", "--help")
_NUMBER = re.compile(r"-(?:[\d.].*|inf|infinity|nan)", re.ASCII | re.I | re.S)
"""Values that begin with "-": negative numbers."""
_MAX_VALUES = 100
"""Values of one option that takes several."""


@dataclasses.dataclass(frozen=True)
class _OptionValues:
    """The values that may follow an option."""

    least: int
    most: int
    longest: int = MAX_CHARACTERS
    """Maximal number of characters of a value."""
    is_path: bool = False
    words: tuple[str, ...] = ()
    """The only allowed values; empty: any."""


def check_arguments_allowed(kind: type, arguments: Sequence[str]) -> None:
    """Refuse every argument that is neither an option of a dataclass nor a value of one.

    Args:
        kind: The dataclass of options that the arguments will be parsed into.

    Raises:
        StudioError: an argument is an option of the parser itself, unknown, abbreviated, misplaced
            or too long; or a path is not relative.
    """
    _check_size(arguments)
    allowed = _allowed(kind)
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        if word in HELP:
            raise StudioError(
                f"{word} works in a terminal only; assets/options.md explains every option."
            )
        if not _is_option(word):
            raise StudioError(
                f"{format_value(word)}: expected an option before it, such as --steps."
            )
        name = flag[2:].replace("_", "-") if flag.startswith("--") else ""
        if name not in allowed:
            known = tuple(f"--{one}" for one in allowed)
            raise StudioError(
                f"{format_value(flag)} is not an option of the "
                f"trainer.{suggestion(flag[:80], known)}"
            )
        expected = allowed[name]
        values = [value] if equals else []
        while waiting and len(values) < expected.most and not _is_option(waiting[0]):
            if expected.words and waiting[0] not in expected.words:
                break
            values.append(waiting.pop(0))
        _check_values(f"--{name}", expected, values)


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not _NUMBER.fullmatch(word)


def _check_size(arguments: Sequence[str]) -> None:
    if len(arguments) > MAX_WORDS:
        raise StudioError(
            f"the command: expected at most {MAX_WORDS} words; got {len(arguments):,}. Shorten it."
        )
    characters = sum(map(len, arguments))
    if characters > MAX_CHARACTERS:
        raise StudioError(
            f"the command: expected at most {MAX_CHARACTERS:,} characters; got {characters:,}. "
            "Shorten it."
        )
    for word in arguments:
        check_text(word, "the command")
        if any(unicodedata.category(letter) == "Cc" and letter not in "\t\r\n" for letter in word):
            raise StudioError(
                f"the command: {format_value(word)} holds control characters. Remove them."
            )


def _check_values(flag: str, expected: _OptionValues, values: Sequence[str]) -> None:
    if len(values) < expected.least:
        raise StudioError(
            f"{flag}: expected a value after it. One that begins with - is written {flag}=VALUE."
        )
    if len(values) > expected.most:  # `--flag=VALUE` of a flag without values.
        raise StudioError(f"{flag}: expected no value; got {format_value(values[0])}.")
    for value in values:
        if len(value) > expected.longest:
            raise StudioError(
                f"{flag}: expected at most {expected.longest:,} characters; got {len(value):,}."
            )
        if expected.is_path:  # Before anything checks whether it exists, or expands "~ada".
            check_relative(value, flag)


@functools.cache
def _allowed(kind: type) -> dict[str, _OptionValues]:
    """Return every option that a parser makes of a dataclass, without its dashes."""
    allowed: dict[str, _OptionValues] = {}
    for prefix, name, hint in option_hints(kind):
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if bool in kinds:
            literals = ("True", "False", "None") if type(None) in kinds else ()
            allowed[prefix + name] = _OptionValues(0, 1 if literals else 0, words=literals)
            allowed[f"{prefix}no-{name}"] = _OptionValues(0, 0)
        elif get_origin(hint) is tuple:
            allowed[prefix + name] = _OptionValues(0, _MAX_VALUES, is_path=Path in get_args(hint))
        else:
            longest = {int: MAX_DIGITS, float: MAX_NUMBER_CHARACTERS}.get(kinds[0])
            allowed[prefix + name] = _OptionValues(
                1, 1, longest or MAX_CHARACTERS, is_path=Path in kinds
            )
    return allowed
