"""Checks of single options, and access to options that are filled in."""

from collections.abc import Sequence
from typing import TypeVar

from nora_studio.errors import StudioError

Value = TypeVar("Value")


def filled(value: Value | None) -> Value:
    """Return an optional value that `with_recommended` has filled in."""
    assert value is not None, "with_recommended fills it in"
    return value


def check_option(good: bool, name: str, expected: str, value: object) -> None:
    """Raise a StudioError that names the flag, unless the value is good.

    Args:
        name: The option's field.
        expected: What the value should be, for the message.
    """
    if not good:
        flag = name.replace("_", "-")
        raise StudioError(f"--{flag}: expected {expected}; got {value!r}.")


def without_effect(name: str, needed: str, value: str = "") -> StudioError:
    """Return the error for an option that has no effect without another one.

    Args:
        name: The option's field.
        needed: The other option, as it is written in a command.
        value: A value to suggest for it, where `needed` has none.
    """
    flag, add = f"--{name.replace('_', '-')}", f"{needed} {value}".strip()
    return StudioError(
        f"{flag} needs {needed} (has no effect without it). Add {add}, or leave {flag} out."
    )


def check_above_zero(options: object, names: Sequence[str]) -> None:
    """Refuse options that are not above 0; None, for a recommended value, is accepted."""
    for name in names:
        value = getattr(options, name)
        check_option(value is None or value > 0, name, "a value above 0", value)


def check_not_negative(options: object, names: Sequence[str]) -> None:
    """Refuse options below 0."""
    for name in names:
        value = getattr(options, name)
        check_option(value >= 0, name, "0 or more", value)
