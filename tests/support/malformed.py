"""Malformed input by command and class: what each case spoils, types, and must hear.

A case is built in a folder of its own from the golden set (tests/golden), so that every file that
is spoiled was a good one that the project wrote. Nothing is random.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from support.places import GOLDEN

PROMPT = "a photo of a [V] mug"
DRAW = ("--prompts", PROMPT, "--steps", "1", "--size", "32", "--out", "out")
HUGE = str(10**400)
DEEP = 5_000
"""Levels of nesting that no reader follows without a limit."""

Ends = Literal["refused", "well", "either"]


@dataclass(frozen=True)
class Case:
    """One malformed input."""

    command: str
    """What is typed: "train", "generate", ... or "request" for the drawing server's reader."""
    kind: str
    """Class of the input, as the report counts it."""
    label: str
    """What is wrong."""
    build: Callable[[], Any]
    """Spoils the input, in the current folder."""
    words: tuple[str, ...]
    """The command's arguments."""
    says: tuple[str, ...]
    """What the one line must name, any of them: the file, the option, the tensor."""
    ends: Ends = "refused"
    """How the command must end: with one line, or well all the same, saying one of `says`; or one
    of the two, as what was spoiled is not read by every command."""
    never: tuple[str, ...] = ()
    """Words of remedies that do not apply here."""

    @property
    def name(self) -> str:
        return f"{self.command}: {self.kind}: {self.label}"


def nothing() -> None:
    """Spoil nothing."""


def golden(*names: str) -> None:
    """Copy parts of the golden set into the current folder."""
    for name in names:
        source = GOLDEN / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        copy(source, name)


def base_folder() -> None:
    """The golden base, by a link: nothing writes to it."""
    if not Path("bases").exists():
        Path("bases").symlink_to(GOLDEN / "bases")
