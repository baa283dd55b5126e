"""Parse a command's options, and check their numbers, paths and texts before files are opened."""

import contextlib
import dataclasses
import io
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from nora_studio.errors import StudioError
from nora_studio.options.number_ranges import check_is_number, checked_number
from nora_studio.options.paths import check_confined, check_path, check_text
from nora_studio.runs.scripts import PROGRAM

Options = TypeVar("Options")
_WRITTEN = {"out", "output_dir"}
"""Folders that a command only writes to; existing files in them are not read."""
_BOX = "│╭╰─╮╯ "
_MESSAGE_LENGTH = 300
_PRINTING = threading.Lock()


def parse_command(
    kind: type[Options],
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    description: str | None = None,
) -> Options:
    """Parse options from the command line.

    Args:
        kind: A frozen dataclass of options.
        arguments: None: this process's.
        prog: What `--help` calls the command. None: as `run_script` was given it, or its path.

    Raises:
        StudioError: a flag is unknown, a value has the wrong type or is out of range, a path is
            invalid, or there is a null byte.
        SystemExit: after `--help`.
    """
    words = sys.argv[1:] if arguments is None else arguments
    check_number_words(kind, words)
    name = called_as(prog)
    return checked(
        run_parser(lambda: tyro.cli(kind, prog=name, description=description, args=words))
    )


def called_as(prog: str | None) -> str | None:
    """Return the given name, or else the one that `run_script` gave this script, if it did."""
    return prog or os.environ.get(PROGRAM)


def run_parser(parse: Callable[[], Options]) -> Options:
    """Run tyro's parser, and turn its error message into an error of one line.

    Raises:
        StudioError: the parser refuses the arguments.
        SystemExit: after `--help`.
    """
    printed = io.StringIO()
    try:
        # Redirection affects the whole process, and pages parse in several threads.
        with _PRINTING, contextlib.redirect_stderr(printed):
            return parse()
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise StudioError(_one_line(printed.getvalue())) from None


def _one_line(printed: str) -> str:
    """Return the first paragraph of the parser's message, with the options that it suggests."""
    lines = [line.strip(_BOX) for line in printed.splitlines()]
    first = next((number for number, line in enumerate(lines[1:], 1) if line), 0)
    paragraph = " ".join(itertools.takewhile(bool, lines[first:]))[:_MESSAGE_LENGTH]
    if not paragraph:
        return "the command cannot be read."
    below = lines[first:]
    if "Perhaps you meant:" in below:
        after = below[below.index("Perhaps you meant:") :]
        close = [line.split()[0] for line in after if line.startswith("--")]
        if close:
            return f"{paragraph.rstrip('.')}. Did you mean {' or '.join(close[:2])}?"
    return paragraph if paragraph.endswith((".", "?")) else f"{paragraph}."


def check_number_words(kind: type, arguments: Sequence[str]) -> None:
    """Refuse values of numeric options that are not numbers, with a clearer message than tyro's.

    Args:
        kind: The dataclass of options.

    Raises:
        StudioError: a value is not a number.
    """
    known = dict(_numbers(kind))
    words = list(arguments)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        name = flag.replace("_", "-")
        if name not in known:
            continue
        number, takes_several, may_be_none = known[name]
        values = [value] if equals else []
        while not equals and words and not words[0].startswith("--"):
            values.append(words.pop(0))
            if not takes_several:
                break
        for one in values:
            if not (may_be_none and one == "None"):
                check_is_number(one, number, name)


def _numbers(kind: type) -> Iterator[tuple[str, tuple[Any, bool, bool]]]:
    """Yield each numeric option's flag, with its type, and whether it takes several or None."""
    for prefix, name, hint in option_hints(kind):
        kinds = get_args(hint) or (hint,)
        for number in (int, float):
            if number in kinds:
                several, optional = get_origin(hint) is tuple, type(None) in kinds
                yield f"--{prefix}{name}", (number, several, optional)
                break


def option_hints(kind: type, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield each option of a dataclass as prefix, name and type.

    `unet.train` gives "unet.", "train"; an option that is not nested has an empty prefix.
    """
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, hint = field.name.replace("_", "-"), hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from option_hints(hint, f"{prefix}{name}.")
        else:
            yield prefix, name, hint


def checked(options: Options) -> Options:
    """Check every number, path and text in the options.

    Returns:
        The options, with random seeds replaced by sampled ones.

    Raises:
        StudioError: a value is invalid, or a path leads out of the visitor's folder (`paths`).
    """
    return _checked(options, "")


def _checked(options: Any, prefix: str) -> Any:
    hints = get_type_hints(type(options), include_extras=True)
    changes: dict[str, object] = {}
    for field in dataclasses.fields(options):
        value, name = getattr(options, field.name), f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            changes[field.name] = _checked(value, f"{name}.")
            continue
        is_positional = get_origin(hints[field.name]) is Annotated
        what = name if is_positional else f"--{name}"
        several = value if isinstance(value, tuple) else (value,)
        good = tuple(_check_value(one, field.name, what) for one in several)
        changes[field.name] = good if isinstance(value, tuple) else good[0]
    changed = {name: new for name, new in changes.items() if new != getattr(options, name)}
    return dataclasses.replace(options, **changed) if changed else options


def _check_value(value: object, name: str, what: str) -> object:
    if isinstance(value, Path):
        check_path(value, what)
        check_confined(value, what, recursive=name not in _WRITTEN)
    elif isinstance(value, str):
        check_text(value, what)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        return checked_number(value, name, what)
    return value
