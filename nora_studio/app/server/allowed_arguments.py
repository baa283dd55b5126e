"""Which words of a command may reach a parser: the trainer's own options, and nothing else.

A parser has powers of its own: tyro writes shell completions into any file that its first word
asks for, before it looks at the rest. So what a page sends is checked word by word before a parser
sees it, here and in the process that runs it, against a list of what is allowed.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin

from nora_studio.errors import StudioError, shown, suggestion
from nora_studio.options.command_line import option_hints
from nora_studio.options.paths import check_relative, check_text

MOST_WORDS = 500
MOST_CHARACTERS = 8_000
"""Of all words together."""
MOST_DIGITS = 18
"""Of a whole number: it fits into 64 bits."""
MOST_NUMBER_CHARACTERS = 32
"""Of another number."""
HELP = ("-h", "--help")
_NUMBER = re.compile(r"-(?:[\d.].*|inf|infinity|nan)", re.ASCII | re.I | re.S)
"""What begins with "-" and is a value all the same."""
_MOST_VALUES = 100
"""Of one option that takes several."""


@dataclasses.dataclass(frozen=True)
class _Takes:
    """What may follow an option."""

    least: int
    most: int
    longest: int = MOST_CHARACTERS
    """Characters of a value."""
    is_path: bool = False
    words: tuple[str, ...] = ()
    """The only values; none: any."""


def check_arguments_allowed(kind: type, arguments: Sequence[str]) -> None:
    """Refuse every word that is neither an option of a dataclass nor a value of one.

    Args:
        kind: The dataclass of options that the words will be parsed into.

    Raises:
        StudioError: a word is an option of the parser's own, unknown, abbreviated, in no place,
            or too much for a parser; or a path is not relative.
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
            raise StudioError(f"{shown(word)}: expected an option before it, such as --steps.")
        name = flag[2:].replace("_", "-") if flag.startswith("--") else ""
        if name not in allowed:
            known = tuple(f"--{one}" for one in allowed)
            raise StudioError(
                f"{shown(flag)} is not an option of the trainer.{suggestion(flag[:80], known)}"
            )
        takes = allowed[name]
        values = [value] if equals else []
        while waiting and len(values) < takes.most and not _is_option(waiting[0]):
            if takes.words and waiting[0] not in takes.words:
                break
            values.append(waiting.pop(0))
        _check_values(f"--{name}", takes, values)


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not _NUMBER.fullmatch(word)


def _check_size(arguments: Sequence[str]) -> None:
    if len(arguments) > MOST_WORDS:
        raise StudioError(
            f"the command: expected at most {MOST_WORDS} words; got {len(arguments):,}. Shorten it."
        )
    characters = sum(map(len, arguments))
    if characters > MOST_CHARACTERS:
        raise StudioError(
            f"the command: expected at most {MOST_CHARACTERS:,} characters; got {characters:,}. "
            "Shorten it."
        )
    for word in arguments:
        check_text(word, "the command")
        if any(unicodedata.category(letter) == "Cc" and letter not in "\t\r\n" for letter in word):
            raise StudioError(f"the command: {shown(word)} holds control characters. Remove them.")


def _check_values(flag: str, takes: _Takes, values: Sequence[str]) -> None:
    if len(values) < takes.least:
        raise StudioError(
            f"{flag}: expected a value after it. One that begins with - is written {flag}=VALUE."
        )
    if len(values) > takes.most:
        raise StudioError(f"{flag}: expected {takes.most or 'no'} value; got {shown(values[0])}.")
    for value in values:
        if len(value) > takes.longest:
            raise StudioError(
                f"{flag}: expected at most {takes.longest:,} characters; got {len(value):,}."
            )
        if takes.is_path:  # Before anything looks whether it is there, or whose home "~ada" is.
            check_relative(value, flag)


@functools.cache
def _allowed(kind: type) -> dict[str, _Takes]:
    """Every option that a parser makes of a dataclass, without its dashes: "unet.no-train"."""
    allowed: dict[str, _Takes] = {}
    for prefix, name, hint in option_hints(kind):
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if bool in kinds:
            said = ("True", "False", "None") if type(None) in kinds else ()
            allowed[prefix + name] = _Takes(0, 1 if said else 0, words=said)
            allowed[f"{prefix}no-{name}"] = _Takes(0, 0)
        elif get_origin(hint) is tuple:
            allowed[prefix + name] = _Takes(0, _MOST_VALUES, is_path=Path in get_args(hint))
        else:
            longest = {int: MOST_DIGITS, float: MOST_NUMBER_CHARACTERS}.get(kinds[0])
            allowed[prefix + name] = _Takes(1, 1, longest or MOST_CHARACTERS, is_path=Path in kinds)
    return allowed
