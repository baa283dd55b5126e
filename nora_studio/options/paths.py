"""Check names and paths before files are opened, and confine them to a visitor's folder."""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nora_studio.errors import StudioError, format_value

CONFINED = "NORA_STUDIO_CONFINED_TO"
"""Environment variable of a command that runs for a visitor of the web app: the folders that its
path options may lead into, its working folder first."""
NAME_BYTES = 255
"""Maximum bytes of a file name."""
PATH_BYTES = 4095
"""Maximum bytes of a path on Linux."""
_RESERVED = {
    *("con", "prn", "aux", "nul", "conin$", "conout$"),
    *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"),
}
"""Names that Windows reserves for devices, with any suffix."""


def check_text(text: str, what: str) -> None:
    """Refuse text that cannot be a file name, an argument or a prompt.

    Args:
        what: What the text is, such as "--prompt".

    Raises:
        StudioError: the text has a null byte, or is not valid Unicode.
    """
    if "\0" in text:
        raise StudioError(f"{what}: expected text without null bytes; got {format_value(text)}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StudioError(
            f"{what}: expected Unicode text (UTF-8); got {format_value(text)}. Rename or rewrite "
            "it."
        ) from error


def check_path(path: Path, what: str) -> None:
    """Refuse a path that the system cannot look up, whether it exists or not.

    Raises:
        StudioError: the path has a null byte, is not UTF-8 or too long, or begins with the home of
            an unknown user.
    """
    check_text(str(path), what)
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise StudioError(
            f"{what}: {format_value(str(path))} is in the home of a user who is unknown here. "
            "Write the full path."
        ) from error
    longest = max((len(part.encode()) for part in path.parts), default=0)
    if longest > NAME_BYTES or len(str(path).encode()) > PATH_BYTES:
        raise StudioError(
            f"{what}: expected a path of at most {PATH_BYTES:,} bytes with names of at most "
            f"{NAME_BYTES}; got {len(str(path).encode()):,} bytes with a name of {longest:,}: "
            f"{format_value(str(path))}. Choose a shorter one."
        )


def check_folder_name(name: str, what: str, suffixes: Sequence[str] = ()) -> None:
    """Refuse a name that is not valid as a folder's name on every system.

    Args:
        what: Where the name was given, such as "--name".
        suffixes: Suffixes that are appended to the name.

    Raises:
        StudioError: the name is a path, is hidden or reserved, or is too long.
    """
    check_text(name, what)
    problem = _problem_with_name(name)
    if problem is not None:
        raise StudioError(
            f"{what}: expected the name of one folder, such as my-mug; got {format_value(name)}, "
            f"{problem}."
        )
    size = len(name.encode()) + max((len(suffix.encode()) for suffix in suffixes), default=0)
    if size > NAME_BYTES:
        raise StudioError(
            f"{what}: expected a folder's name of at most {NAME_BYTES} bytes; got {size:,} bytes "
            f"with what is appended: {format_value(name)}. Choose a shorter one."
        )


def _problem_with_name(name: str) -> str | None:
    if not name.strip():
        return "which is empty"
    if "/" in name or "\\" in name:
        return "which is a path"
    if name.startswith("."):
        return "which begins with a dot"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "which holds control characters"
    if is_reserved(name):
        return "which Windows reserves for a device"
    return None


def is_reserved(name: str) -> bool:
    """Return whether Windows reserves a name for a device: "con", "COM1", "nul.txt"."""
    return name.partition(".")[0].strip().lower() in _RESERVED


def check_relative(path: Path | str, what: str) -> Path:
    """Refuse a path whose text shows that it may lead out of the folder it is relative to.

    Raises:
        StudioError: the path is absolute, begins with "~", which commands expand, or has "..".
    """
    check_text(str(path), what)
    path = Path(path)
    suspicious = ".." in path.parts or any("\\" in part or ":" in part for part in path.parts)
    if path.is_absolute() or suspicious or (path.parts[:1] and path.parts[0].startswith("~")):
        raise _outside(path, what)
    check_path(path, what)
    return path


def _outside(path: Path, what: str) -> StudioError:
    return StudioError(
        f"{what}: expected a file or folder of your own, such as photos/my-mug; got "
        f"{format_value(str(path))}."
    )


def check_inside(root: Path, path: Path | str, label: str, recursive: bool = True) -> Path:
    """Check that a path, with all links in it, stays within a folder, and return its real path.

    Args:
        root: The folder.
        path: Relative to the folder; it need not exist.
        label: Where the path was given, such as "--instance-dir".
        recursive: If the path is a folder, check everything in it too, as its readers follow links.

    Returns:
        The path with links resolved.

    Raises:
        StudioError: as `check_relative`; or a link leads out of the folder; or the path, or
            anything in it, is a pipe, device or socket.
    """
    path = check_relative(path, label)
    name, root = format_value(str(path)), Path(os.path.realpath(root))
    place = Path(os.path.realpath(root / path))
    if not place.is_relative_to(root):
        raise _outside(path, label)
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return place  # It does not exist yet.
    except OSError as error:
        raise StudioError(f"{label}: {name} cannot be looked at: {error.strerror}.") from error
    waiting, seen = [place], {place}
    try:
        while waiting:
            for found in _opened(waiting.pop(), recursive):
                if not found.is_relative_to(root):
                    raise StudioError(f"{label}: {name} holds a link that leads out of it.")
                if found not in seen:
                    seen.add(found)
                    waiting.append(found)
    except OSError as error:
        raise StudioError(f"{label}: {name} cannot be looked at: {error.strerror}.") from error
    except _Unreadable as error:
        raise StudioError(
            f"{label}: {name} is or holds {error}, which is a pipe, device or socket."
        ) from None
    return place


class _Unreadable(Exception):
    """A pipe, a device or a socket."""


def _opened(place: Path, recursive: bool) -> Iterator[Path]:
    """Yield the paths that are opened when a folder is read: its folders and its links' targets."""
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:  # A broken link, or it was removed meanwhile.
        return
    if stat.S_ISREG(mode):
        return
    if not stat.S_ISDIR(mode):
        raise _Unreadable(repr(place.name[:80]))
    if not recursive:
        return
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield Path(os.path.realpath(entry.path))
            elif entry.is_dir(follow_symlinks=False):
                yield place / entry.name
            elif not entry.is_file(follow_symlinks=False):
                raise _Unreadable(repr(entry.name[:80]))


def check_confined(path: Path, what: str, recursive: bool = True) -> None:
    """Refuse a path outside the visitor's folders, in a command that runs for a visitor.

    The server has checked the path when the command was queued; it is checked again when it is
    opened.

    Raises:
        StudioError: as `check_inside`.
    """
    roots = [Path(root) for root in filter(None, os.environ.get(CONFINED, "").split(os.pathsep))]
    if not roots:
        return
    for root in roots:
        if path.is_absolute() and path.is_relative_to(root):
            check_inside(root, path.relative_to(root), what, recursive)
            return
    check_inside(roots[0], path, what, recursive)


def confining(folders: Iterable[Path]) -> dict[str, str]:
    """Return the environment that confines a command to some folders, the first its working one."""
    return {CONFINED: os.pathsep.join(str(folder) for folder in folders)}
