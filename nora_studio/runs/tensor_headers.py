"""Headers of safetensors files: the one reader of them, which needs no tensor library.

What is read here is what is refused here: a pickle, a file that is cut short, and whatever two
readers could read differently.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again
from nora_studio.runs.strict_json import parse_json

PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
# A zip archive (torch.save), then pickle's protocols 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
_WHOLE = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1}
_BYTES = _FLOATS | _WHOLE | {"BOOL": 1}
_MOST_HEADER_BYTES = 100_000_000
"""The library's own limit."""

Stamp = tuple[int, int, int]
"""Size in bytes, time of the last change in nanoseconds, and inode: they differ if a file does."""


@dataclass(frozen=True)
class Header:
    """What stands in a file before its tensors."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """Safetensors' names: "F32", "BF16", ..."""
    places: dict[str, tuple[int, int]]
    """First byte of each tensor in the file, and the one after its last."""
    stamp: Stamp
    """Of the file when the header was read."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Tell one state of a file from another."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_header(file: Path, remedy: str | None = None) -> Header:
    """Read names, shapes and metadata, no tensor; the file is opened twice, by us and the library.

    Source: the format's description at github.com/huggingface/safetensors.

    Args:
        remedy: What to do about a damaged file, in whole sentences. None: as for an adapter.

    Raises:
        StudioError: it is not there, is another kind of file (a pickle first of all), is cut short,
            or two readers could read it differently.
    """
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise StudioError(f"expected a .safetensors file; {file} {problem}. Check the path.")
    try:
        with file.open("rb") as stream:
            start = stream.read(9)
            _check_start(file, start, remedy)
            status = os.fstat(stream.fileno())
            length = int.from_bytes(start[:8], "little")
            fits = length <= min(_MOST_HEADER_BYTES, status.st_size - 8)
            stream.seek(8)
            text = stream.read(length) if fits else b""
    except OSError as error:
        raise StudioError(f"{file} cannot be read: {error.strerror}.") from error
    try:
        if not fits:
            raise ValueError(f"its header should have {length} bytes, and is cut short")
        entries = parse_json(text.decode())
        metadata = entries.pop("__metadata__", None) or {}
        _check_places(entries, status.st_size - 8 - length)
        # The library has the last word: whatever passes here can be loaded by it. By "np", since
        # "pt" asks the system for as much memory as the file is long.
        with safe_open(file, framework="np"):
            pass
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(file, error, remedy) from error
    except (OverflowError, RecursionError) as error:
        raise damaged(file, error, remedy) from error
    places = {name: entry["data_offsets"] for name, entry in entries.items()}
    return Header(
        metadata,
        {name: tuple(entry["shape"]) for name, entry in entries.items()},
        {name: entry["dtype"] for name, entry in entries.items()},
        {name: (8 + length + begin, 8 + length + end) for name, (begin, end) in places.items()},
        stamp_of(status),
    )


def _check_start(file: Path, start: bytes, remedy: str | None) -> None:
    """Refuse what is no safetensors file by name or by its first bytes, pickles first of all."""
    # A safetensors file begins with the header's length and "{": its zip look-alike would need a
    # header of 67 million bytes, so the brace decides.
    is_safetensors = len(start) == 9 and start[8:] == b"{"
    is_pickle = start.startswith(_PICKLE_STARTS) and not is_safetensors
    if is_pickle or file.suffix.lower() in PICKLE_SUFFIXES:
        raise StudioError(
            f"{file} is a pickle, which can run any program when it is read, and is never opened "
            "here. Get it as .safetensors."
        )
    if not is_safetensors:
        raise StudioError(
            f"{file} is no safetensors file (its first bytes are not a header). "
            f"{remedy or get_again(file)}"
        )


def _check_places(entries: dict[str, Any], size: int) -> None:
    """Refuse tensors that overlap, leave bytes between them, or lie beyond the file's end.

    Args:
        entries: Of the header, by name.
        size: Of what follows the header, in bytes.

    Raises:
        ValueError: they do; the tensor is named.
    """
    places: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        numbers = [begin, end, *entry["shape"]]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"tensor {shown(name)} has a shape or place of no whole numbers")
        wide = _BYTES.get(entry["dtype"])
        if begin > end or (wide and math.prod(entry["shape"]) * wide != end - begin):
            raise ValueError(f"tensor {shown(name)} is of another size than its place")
        if end > size:
            raise ValueError(
                f"tensor {shown(name)} ends at byte {end:,} of {size:,}: the file is cut short"
            )
        places.append((begin, end, name))
    places.sort()
    for (_, before, other), (begin, _, name) in zip(
        [(0, 0, "the header"), *places], places, strict=False
    ):
        if begin < before:
            raise ValueError(f"tensors {shown(other)} and {shown(name)} overlap")
        if begin > before:
            raise ValueError(f"{begin - before} bytes before tensor {shown(name)} belong to none")
    if places and places[-1][1] < size:
        raise ValueError(f"{size - places[-1][1]} bytes after the last tensor belong to none")


def shown(name: str) -> str:
    """A tensor's name for a message of one line."""
    return name if name.isprintable() and 0 < len(name) <= 200 else repr(name[:200])


def check_floats(file: Path, header: Header) -> None:
    """Refuse an adapter's tensors of other numbers than floats; an alpha may be a whole number.

    Raises:
        StudioError: one is such; it is named.
    """
    for name, dtype in header.dtypes.items():
        is_number = dtype in _WHOLE and math.prod(header.shapes[name]) == 1
        if dtype not in _FLOATS and not (is_number and name.endswith(".alpha")):
            raise StudioError(
                f"{file}: expected floating-point numbers ({', '.join(_FLOATS)}) in "
                f"{shown(name)}; got {dtype}. Get the adapter in one of those."
            )


def damaged(file: Path, error: Exception, remedy: str | None = None) -> StudioError:
    """Say in one line why a file cannot be read, and what to do about it."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return StudioError(f"{file} cannot be read: {reason}. {remedy or get_again(file)}")


def count_numbers(header: Header) -> int:
    """How many numbers a file holds."""
    return sum(math.prod(shape) for shape in header.shapes.values())
