"""Parse a command's options, and check what they name before anything is opened."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

import tyro

from nora_studio.paths import check_confined, check_path, check_text

Options = TypeVar("Options")
_WRITTEN = {"out", "output_dir"}
"""Folders that a command writes new things into; what lies in them is not read."""


def parse_command(
    kind: type[Options],
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    description: str | None = None,
) -> Options:
    """Options from the command line.

    Args:
        kind: A frozen dataclass of options.
        arguments: None: this process's.

    Raises:
        StudioError: a path cannot be one, or an option holds a null byte.
        SystemExit: an unknown flag or `--help`, as told by the parser.
    """
    return checked(tyro.cli(kind, prog=prog, description=description, args=arguments))


def checked(options: Options) -> Options:
    """The same options, once every path and text in them is one that the system can take.

    Raises:
        StudioError: one is not; or it leaves the folder of the visitor that the command runs for.
    """
    _check(options, "")
    return options


def _check(options: Any, prefix: str) -> None:
    hints = get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        value, name = getattr(options, field.name), f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            _check(value, f"{name}.")
            continue
        is_positional = get_origin(hints[field.name]) is Annotated
        what = name if is_positional else f"--{name}"
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, Path):
                check_path(one, what)
                check_confined(one, what, whole=field.name not in _WRITTEN)
            elif isinstance(one, str):
                check_text(one, what)
