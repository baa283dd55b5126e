"""Readers of a run's files that check every value, so that a damaged file is named, not a crash.

Readers for displaying runs are lenient (`read_status`, `read_log`): a value of the wrong type
counts as absent. Readers whose result a training depends on are strict and refuse the file in one
line. `damage` describes the first value in a run's folder that a trainer would not have written.
"""

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from nora_studio.errors import StudioError, format_value
from nora_studio.runs.process_id import ProcessId
from nora_studio.runs.strict_json import JsonObject

CONFIG = "config.toml"
LOG = "log.jsonl"
STATUS = "status.json"
PHOTOS = "photos.json"
STATES = ("running", "finished", "stopped", "failed")
_SINGLE = frozenset({
    "step", "loss", "fixed_loss", "held_out_loss", "gradient_norm", "weight_norm",
    "seconds_per_step", "images_per_second", "examples_per_second", "memory_gib", "time",
})  # fmt: skip
"""Names in a log line whose value must be a single number."""
_MOST_STEPS = 10**15
_LATEST = 2.5e11
"""Seconds since 1970, in the year 9892; `datetime` cannot represent much later times."""
# What reading and parsing raise. UnicodeDecodeError, TOMLDecodeError, JSONDecodeError and whole
# numbers of too many digits are ValueErrors.
_UNREADABLE = (OSError, ValueError, RecursionError, MemoryError)


def read_config(file: Path) -> JsonObject:
    """Read the settings of a run; those of parts are nested tables.

    Raises:
        StudioError: the file cannot be read, or a setting that is displayed has the wrong type.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
        _check_settings(values)
    except _UNREADABLE as error:
        raise StudioError(
            f"{file} is damaged: {_reason(error)}. Restore it from a copy, such as that of a twin, "
            "or delete the run and start another."
        ) from error
    return values


def flat_settings(table: Mapping[str, Any], prefix: str = "") -> JsonObject:
    """Flatten a TOML table: return its values and those of nested tables by names with dots."""
    values: JsonObject = {}
    for name, value in table.items():
        if isinstance(value, dict):
            values |= flat_settings(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def _check_settings(values: JsonObject) -> None:
    if not _is_count(values.get("steps", 0)):
        raise ValueError(f"steps should be a whole number; got {format_value(values['steps'])}")
    for name in ("method", "name", "output_dir", "model", "prompt", "instance_dir"):
        if not isinstance(values.get(name, ""), str):
            raise ValueError(f"{name} should be a string; got {format_value(values[name])}")
    prompts = values.get("sample_prompts", [])
    if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"sample_prompts should be a list of strings; got {format_value(prompts)}")


def read_digests(file: Path) -> dict[str, str]:
    """Read the digests of the data that a run was started with, by file name.

    Raises:
        StudioError: the file cannot be read, or holds anything else.
    """
    try:
        return _digests(file)
    except _UNREADABLE as error:
        raise StudioError(
            f"{file} is damaged: {_reason(error)}. Copy it from a twin or a backup, or delete "
            "it to continue without checking that the data is the same."
        ) from error


def _digests(file: Path) -> dict[str, str]:
    values = _object(file)
    for name, digest in values.items():
        if not isinstance(digest, str):
            raise ValueError(
                f"the digest of {name[:80]!r} should be text; got {format_value(digest)}"
            )
    return values


def read_status(file: Path) -> JsonObject:
    """Read the last status, without values of the wrong type; empty if it cannot be read."""
    try:
        values = _object(file)
    except _UNREADABLE:
        return {}
    return {name: value for name, value in values.items() if _status_fits(name, value)}


def read_log(file: Path) -> list[JsonObject]:
    """Read the lines of a log that belong to a step, without values of the wrong type."""
    rows: list[JsonObject] = []
    for line in _lines(file):
        try:
            row = json.loads(line)
        except _UNREADABLE:
            continue
        if isinstance(row, dict) and _is_count(row.get("step")):
            rows.append({name: value for name, value in row.items() if _log_fits(name, value)})
    return rows


def method_of_card(file: Path) -> str | None:
    """Return the method that an adapter's card names; None if it cannot be read."""
    try:
        method = _object(file).get("method")
    except _UNREADABLE:
        return None
    return method if isinstance(method, str) else None


def damage(folder: Path) -> str | None:
    """Describe the first damaged file of a run ("config.toml: ..."); None if there is none.

    The last line of a log may be truncated, as by a power cut, and the status may be missing.
    """
    checks: dict[str, Callable[[Path], object]] = {
        CONFIG: _check_config,
        STATUS: _check_status,
        PHOTOS: _digests,
        LOG: _check_log,
    }
    for name, check in checks.items():
        if name != CONFIG and not (folder / name).exists():
            continue
        try:
            check(folder / name)
        except _UNREADABLE as error:
            return f"{name}: {_reason(error)}"
    return None


def _check_config(file: Path) -> None:
    try:
        read_config(file)
    except StudioError as error:
        raise error.__cause__ or error from error


def _check_status(file: Path) -> None:
    for name, value in _object(file).items():
        if not _status_fits(name, value):
            raise ValueError(f"{name[:80]} should not be {format_value(value)}")


def _check_log(file: Path) -> None:
    if not file.is_file():
        raise ValueError("it is not a file")
    lines = list(_lines(file))
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not _is_count(row.get("step")):
                raise ValueError("expected a line of JSON with a step")
            for name, value in row.items():
                if not _log_fits(name, value):
                    raise ValueError(f"{name[:80]} should be a number; got {format_value(value)}")
        except _UNREADABLE as error:
            if number < len(lines) or line.endswith("\n"):
                raise ValueError(f"line {number}: {_reason(error)}") from error


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            yield from (line for line in stream if line.strip())
    except OSError:
        return


def _object(file: Path) -> JsonObject:
    text = file.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError("it is empty")
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object; got {format_value(values)}")
    return values


def _status_fits(name: str, value: object) -> bool:
    """Return whether a value of the status has the type that a trainer writes under its name."""
    if name in ("step", "steps", "best_step", "adapter_step"):
        return _is_count(value)
    if name in ("pid", "started", "host"):
        return ProcessId.is_valid_field(name, value)
    if name == "time":
        return is_finite(value) and 0 <= value < _LATEST
    if name == "state":
        return value in STATES
    if name in ("seconds_left", "change", "accuracy"):
        return is_finite(value)
    # A name of a later version, or a best loss, which may be infinite.
    return isinstance(value, str) if name == "error" else isinstance(value, str | int | float)


def _log_fits(name: str, value: object) -> bool:
    """Return whether a value of the log has the type that a trainer logs under its name.

    Losses, times and scores are numbers that a float can hold, or NaN. Other values may also be a
    table of numbers, one for each part, or a string.
    """
    is_score = name.startswith("sample_") and name != "sample_judge"
    if name in _SINGLE or is_score:
        return _is_number(value)
    if isinstance(value, dict):
        return all(_is_number(inner) for inner in value.values())
    return isinstance(value, str) or _is_number(value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) is float or (type(value) is int and abs(value) < 2**1023)


def is_finite(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number that a float can hold, not NaN and not infinite."""
    return _is_number(value) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST_STEPS


def _reason(error: BaseException) -> str:
    """Return in one line why a file cannot be read."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start})"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
