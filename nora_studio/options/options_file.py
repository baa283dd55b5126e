"""Read a trainer's options from flags and TOML files, and write them as either."""

import dataclasses
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w
import tyro

from nora_studio.errors import StudioError, format_value, suggestion
from nora_studio.options.command_line import called_as, check_number_words, checked, run_parser
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.paths import check_confined, check_path

Options = TypeVar("Options")
_WINDOWS_PATH = re.compile(r"""(?m)^[^#'"\n]*("(?:[A-Za-z]:\\(?!\\)|\\\\(?!\\))[^"\n]*"?)""")
"""A path such as C:\\temp in double quotes, where \\t is a tab. Doubled backslashes are fine."""


def parse_options(argv: Sequence[str] | None = None, prog: str | None = None) -> DreamboothOptions:
    """Read the DreamBooth trainer's options, as `parse` does."""
    return parse(DreamboothOptions, argv, prog)


def parse(
    kind: type[Options], argv: Sequence[str] | None = None, prog: str | None = None
) -> Options:
    """Parse options from the command line, which override those in a file of `--config FILE`.

    Args:
        kind: A frozen dataclass of options.
        argv: None: this process's.
        prog: As `parse_command` takes it.

    Raises:
        StudioError: the file is missing or has an unknown key or a value of the wrong type, or an
            option is unknown, out of range, or an invalid path.
        SystemExit: after `--help`.
    """
    arguments: list[str] = []
    for word in sys.argv[1:] if argv is None else argv:
        arguments += ["--config", word[9:]] if word.startswith("--config=") else [word]
    base: Any = _with_required(kind, tyro.MISSING)
    while "--config" in arguments:
        place = arguments.index("--config")
        if place + 1 >= len(arguments):
            raise StudioError("--config: expected a TOML file after it.")
        base = _override(base, read_toml(Path(arguments[place + 1])), arguments[place + 1])
        del arguments[place : place + 2]
    check_number_words(kind, arguments)
    words = _with_switch_values(kind, arguments)
    name = called_as(prog)
    return checked(run_parser(lambda: tyro.cli(kind, prog=name, args=words, default=base)))


def _with_required(kind: Any, value: Any) -> Any:
    """Return default options, with one value for all required ones."""
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return kind(**dict.fromkeys(required, value))


def options_given(argv: Sequence[str] | None = None) -> frozenset[str]:
    """Return the names of the options that are set on the command line or in its TOML files."""
    names: set[str] = set()
    words = list(sys.argv[1:] if argv is None else argv)
    for word, following in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag == "--config":
            names |= read_toml(Path(value if equals else following)).keys()
        elif flag.startswith("--"):
            name = flag[2:].replace("-", "_")
            names |= {name, name.removeprefix("no_")}
    return frozenset(names)


def _with_switch_values(kind: type, arguments: list[str]) -> list[str]:
    """Give the parser `--buckets True` for `--buckets`, for switches that may also be None."""
    kinds = get_type_hints(kind)
    words: dict[str, list[str]] = {}
    for name in (name for name, hint in kinds.items() if hint == bool | None):
        flag = f"--{name.replace('_', '-')}"
        words |= {flag: [flag, "True"], f"--no-{flag[2:]}": [flag, "False"]}
    result: list[str] = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        has_value = following in ("True", "False", "None")
        result += [word] if has_value else words.get(word, [word])
    return result


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file's table.

    Raises:
        StudioError: the file cannot be read, or is not TOML.
    """
    check_path(file, "--config")
    check_confined(file, "--config")
    try:
        text = file.expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StudioError(f"--config: {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StudioError(f"--config: {file} is not UTF-8 text. Save it as UTF-8.") from error
    path = _WINDOWS_PATH.search(text)
    if path is not None:
        raise StudioError(
            f"--config: {file}: write a Windows path in single quotes, as in 'C:\\temp\\new', or "
            f"with doubled backslashes: in double quotes, {path[1][:40]} is not that path."
        )
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise StudioError(f"--config: {file} is nested too deeply to be options.") from error
    except ValueError as error:  # Includes numbers of thousands of digits.
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise StudioError(f"--config: {file} is not valid TOML: {reason}.") from error
    if "sample_prompt" in values:  # Earlier versions had a single prompt.
        values.setdefault("sample_prompts", [values.pop("sample_prompt")])
    return values


def _override(base: Any, values: dict[str, Any], where: str, prefix: str = "") -> Any:
    """Override a dataclass's fields with a table of a TOML file, checking types."""
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise StudioError(
                f"{where}: unknown option {prefix + key!r}.{suggestion(key, tuple(hints))}"
            )
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise StudioError(
                    f"{where}: {prefix + key} must be a table; got {format_value(value)}."
                )
            changes[key] = _override(getattr(base, key), value, where, f"{prefix}{key}.")
        else:
            changes[key] = _typed(value, hints[key], f"{where}: {prefix + key}")
    return dataclasses.replace(base, **changes)


def _typed(value: Any, hint: object, where: str) -> Any:
    """Convert a TOML value to one of the types that a field allows."""
    expected = []
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        words = get_args(kind)
        if get_origin(kind) is Literal:
            if value in words:
                return value
            expected.append(f"one of {', '.join(map(str, words))}")
        elif get_origin(kind) is tuple:
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                return tuple(value)
            expected.append("a list of strings")
        elif kind is Path and isinstance(value, str):
            return Path(value)
        elif kind is float and type(value) is int:
            return float(value)
        elif type(value) is kind:
            return value
        else:
            expected.append(_TOML_WORDS.get(kind, ""))
    allowed = " or ".join(word for word in expected if word)
    raise StudioError(f"{where} must be {allowed}; got {format_value(value)}.")


_TOML_WORDS = {
    str: "a string",
    Path: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def to_toml(options: Any) -> str:
    """Format options as TOML for `--config`; None, always a default, is left out."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
            return {name: plain(item) for name, item in pairs if item is not None}
        return str(value) if isinstance(value, Path) else value

    return tomli_w.dumps(plain(options))


def defaults_as_toml(kind: Any = DreamboothOptions) -> str:
    """Format every option's default as TOML; required options are left out."""
    return to_toml(_with_required(kind, None))


def to_flags(options: Any) -> list[str]:
    """Return the command-line words for some options; defaults are left out.

    Args:
        options: A dataclass that `parse` can read.
    """

    def words_of(table: Any, plain: Any, prefix: str) -> list[str]:
        words: list[str] = []
        for field in dataclasses.fields(table):
            value, default = getattr(table, field.name), getattr(plain, field.name)
            name = f"{prefix}{field.name.replace('_', '-')}"
            if dataclasses.is_dataclass(value):
                words += words_of(value, default, f"{name}.")
            elif value != default:
                words += flag_words(name, value)
        return words

    return words_of(options, _with_required(type(options), None), "")


def flag_words(name: str, value: object) -> list[str]:
    """Return the command-line words for one option.

    Args:
        name: Without the leading "--", such as "unet.rank".
    """
    if isinstance(value, bool):
        head, dot, tail = name.rpartition(".")
        return [f"--{head}{dot}{tail if value else f'no-{tail}'}"]
    if isinstance(value, tuple):
        return [f"--{name}", *map(str, value)]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if text.startswith("-") and not isinstance(value, int | float):
        return [f"--{name}={text}"]  # A separate word would be parsed as an option.
    return [f"--{name}", text]
