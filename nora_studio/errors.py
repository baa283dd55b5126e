"""The one error that users are meant to read, and how values stand in it."""

import difflib
from collections.abc import Iterable


class StudioError(ValueError):
    """Bad input, told in one line: what was expected, what came, where, and the remedy.

    Entry points print the message alone and exit with status 2; a traceback is for our own faults.
    """


def format_value(value: object, most: int = 80) -> str:
    """Write a value that somebody gave for a message: its `repr`, cut where it is long.

    Args:
        most: Characters of the value.
    """
    if isinstance(value, int) and abs(value) >= 10**most:  # Python writes out 4,300 digits at most.
        return f"a number of more than {most} digits"
    if isinstance(value, str):
        return repr(value if len(value) <= most else f"{value[: most - 3]}...")
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_line(error: Exception) -> str:
    """Give the first line of what a library says; its error's name where it says nothing."""
    return (str(error).strip().splitlines() or [repr(error)])[0]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Write " Did you mean ...?" when something known is close to a word, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
