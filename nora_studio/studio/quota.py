"""How much disk a visitor may take, and what an upload may be."""

import contextlib
import os
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.studio.workspace import Workspace

QUOTA_BYTES = 5 * 1024**3
"""Of a visitor's whole workspace, runs included."""
_SHOWN_LENGTH = 100


def used_bytes(workspace: Workspace) -> int:
    """What lies in a workspace, links not followed."""
    total = 0
    for parent, _, names in os.walk(workspace.folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).lstat().st_size
    return total


def check_room(workspace: Workspace, adding: int, quota: int = QUOTA_BYTES) -> None:
    """Refuse what would not fit into a visitor's share of the disk any more.

    Args:
        adding: Bytes.
        quota: Bytes that the workspace may take in all.

    Raises:
        StudioError: it would not.
    """
    used = used_bytes(workspace)
    if used + adding > quota:
        raise StudioError(
            f"your folder may take {_gigabytes(quota)}; it takes {_gigabytes(used)}, and this "
            f"needs {_gigabytes(adding)}. Delete runs or pictures that you no longer need."
        )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.1f} MB"


def check_size(shown: str, size: int, most: int) -> None:
    """Refuse a file that is empty or too large.

    Args:
        shown: What to call it.
        size: In bytes; and the most that it may have.

    Raises:
        StudioError: it is.
    """
    if size == 0:
        raise StudioError(f"{shown} is empty. Choose the file again.")
    if size > most:
        raise StudioError(
            f"{shown} has {_gigabytes(size)}; at most {_gigabytes(most)} are taken. Make it "
            "smaller."
        )


def shown_name(name: str, fallback: str) -> str:
    """What a visitor called a file, to show it again: text, and never part of a path."""
    last = name.replace("\\", "/").rpartition("/")[2]
    plain = "".join(letter for letter in last if letter.isprintable()).strip()
    return plain[:_SHOWN_LENGTH] or fallback
