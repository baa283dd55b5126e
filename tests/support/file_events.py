"""Something done at an exact moment of other code: just before Python touches a certain file."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

_installed: list[bool] = []
_waiting: list[Callable[[str, tuple[Any, ...]], None]] = []
"""At most one; the hook stays for as long as Python runs, since no audit hook can be removed."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _waiting:
        _waiting[0](event, arguments)


@contextlib.contextmanager
def at_file_event(
    event: str,
    path: str,
    act: Callable[[], object],
    is_time: Callable[[], bool] = lambda: True,
) -> Iterator[list[str]]:
    """Within the block, do something once, before the first event of a kind at a path.

    Args:
        event: One of Python's audit events whose first argument is a path: "open" (for writing),
            "os.mkdir".
        path: Expression that matches the end of the path.
        act: Called in the thread that is about to touch the file.
        is_time: Events before it says so are let pass.

    Yields:
        The path, once it has happened.
    """
    happened: list[str] = []
    pattern = re.compile(rf"(.*/)?{path}")

    def look(found: str, arguments: tuple[Any, ...]) -> None:
        if found != event or not isinstance(arguments[0], str | os.PathLike):
            return
        is_read = event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR))
        place = os.fspath(arguments[0])
        if not is_read and isinstance(place, str) and pattern.fullmatch(place) and is_time():
            _waiting.clear()  # Before the act, which touches files itself.
            happened.append(place)
            act()

    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    _waiting.append(look)
    try:
        yield happened
    finally:
        _waiting.clear()
