"""Checksums of a checkpoint's files, written last, and compared with the files when it is read."""

import hashlib
import json
from pathlib import Path

from nora_studio.runs.strict_json import JsonObject
from nora_studio.runs.tensor_headers import read_header

CHECKSUMS = "checksums.json"
_STATE = "state.safetensors"


def write_checksums(folder: Path) -> None:
    """Write the size and digest of every file in a folder to its checksums file.

    Raises:
        OSError: a file cannot be read or written.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    known = {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "blake2b": _digest(file),
        }
        for file in files
        if file.name != CHECKSUMS
    }
    (folder / CHECKSUMS).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def damage(checkpoint: Path) -> str | None:
    """Describe what is wrong with a checkpoint; None if all its files are as they were written.

    A checkpoint of an earlier version has no checksums; in it, only missing and truncated files
    are found.
    """
    try:
        if (checkpoint / CHECKSUMS).exists():
            return _changed(checkpoint)
        return _unreadable(checkpoint)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"


def _changed(folder: Path) -> str | None:
    try:
        known: dict[str, JsonObject] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        wanted = {name: (facts["bytes"], facts["blake2b"]) for name, facts in known.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{CHECKSUMS} is not as it was written"
    for name, (size, digest) in wanted.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
        if _digest(file) != digest:
            return f"{name} is not as it was written: its checksum differs"
    return None


def _unreadable(folder: Path) -> str | None:
    if not (folder / _STATE).is_file():
        return f"{_STATE} is missing"
    for file in sorted(folder.rglob("*")):
        try:
            if file.suffix == ".safetensors":
                read_header(file)  # Refuses a truncated file.
            elif file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            return f"{file.relative_to(folder).as_posix()} cannot be read: {reason}"
    return None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
