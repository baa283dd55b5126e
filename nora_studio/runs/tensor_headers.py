"""Headers of safetensors files, read and checked without a tensor library.

Refused are pickles, truncated files, and files that two readers could read differently.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again
from nora_studio.runs.strict_json import JsonObject, parse_json

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
    """The header of a safetensors file."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """Safetensors' names: "F32", "BF16", ..."""
    places: dict[str, tuple[int, int]]
    """First byte of each tensor in the file, and the byte after its last."""
    stamp: Stamp
    """The file's stamp when the header was read."""


def stamp_of(status: os.stat_result) -> Stamp:
    """Return a stamp that changes whenever the file does."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def read_header(file: Path, remedy: str | None = None) -> Header:
    """Read names, shapes and metadata of a file without its tensors.

    The file is opened twice: here and, for the library's own checks, by safetensors. Source: the
    format's description at github.com/huggingface/safetensors.

    Args:
        remedy: What to do about a damaged file, in whole sentences. None: as for an adapter.

    Raises:
        StudioError: the file does not exist, is of another kind such as a pickle, is truncated, or
            could be read differently by two readers.
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
            raise ValueError(f"its header of {length} bytes is truncated or above the limit")
        entries = parse_json(text.decode())
        metadata = entries.pop("__metadata__", None) or {}
        _check_places(entries, status.st_size - 8 - length)
        # The library checks as well, so that it can load whatever passes here. "np", because "pt"
        # allocates as much memory as the file is long.
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
    """Refuse pickles and other files that are not safetensors, by name and first bytes."""
    # A safetensors file begins with the header's length and "{": its zip look-alike would need a
    # header of 67 million bytes, so the brace decides.
    is_safetensors = len(start) == 9 and start[8:] == b"{"
    is_pickle = start.startswith(_PICKLE_STARTS) and not is_safetensors
    if is_pickle or file.suffix.lower() in PICKLE_SUFFIXES:
        raise StudioError(
            f"{file} is a pickle, which can run any program when it is read, so it is not opened. "
            "Get it as .safetensors."
        )
    if not is_safetensors:
        raise StudioError(
            f"{file} is not a safetensors file: it does not begin with a header. "
            f"{remedy or get_again(file)}"
        )


def _check_places(entries: JsonObject, size: int) -> None:
    """Refuse tensors that overlap, leave bytes between them, or lie beyond the file's end.

    Args:
        entries: The header's entries by name.
        size: Bytes after the header.

    Raises:
        ValueError: a tensor is misplaced; the message names it.
    """
    places: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        numbers = [begin, end, *entry["shape"]]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(
                f"tensor {format_tensor_name(name)} has a shape or offset that is not a number"
            )
        element_size = _BYTES.get(entry["dtype"])
        expected = element_size and math.prod(entry["shape"]) * element_size
        if begin > end or (element_size and expected != end - begin):
            raise ValueError(
                f"tensor {format_tensor_name(name)} has another size than its offsets say"
            )
        if end > size:
            raise ValueError(
                f"tensor {format_tensor_name(name)} ends at byte {end:,} of {size:,}: the file is "
                "truncated"
            )
        places.append((begin, end, name))
    places.sort()
    for (_, before, other), (begin, _, name) in zip(
        [(0, 0, "the header"), *places], places, strict=False
    ):
        if begin < before:
            raise ValueError(
                f"tensors {format_tensor_name(other)} and {format_tensor_name(name)} overlap"
            )
        if begin > before:
            raise ValueError(
                f"{begin - before} bytes before tensor {format_tensor_name(name)} are unused"
            )
    if places and places[-1][1] < size:
        raise ValueError(f"{size - places[-1][1]} bytes after the last tensor are unused")


def format_tensor_name(name: str) -> str:
    """Format a tensor's name for a message of one line."""
    return name if name.isprintable() and 0 < len(name) <= 200 else repr(name[:200])


def check_floats(file: Path, header: Header) -> None:
    """Refuse an adapter's tensors that are not floating-point; an alpha may be a whole number.

    Raises:
        StudioError: a tensor has another dtype; the message names it.
    """
    for name, dtype in header.dtypes.items():
        is_number = dtype in _WHOLE and math.prod(header.shapes[name]) == 1
        if dtype not in _FLOATS and not (is_number and name.endswith(".alpha")):
            raise StudioError(
                f"{file}: expected floating-point numbers ({', '.join(_FLOATS)}) in "
                f"{format_tensor_name(name)}; got {dtype}. Get the adapter in one of these formats."
            )


def damaged(file: Path, error: Exception, remedy: str | None = None) -> StudioError:
    """Return the error for a file that cannot be read: why, and what to do about it."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return StudioError(f"{file} cannot be read: {reason}. {remedy or get_again(file)}")


def count_numbers(header: Header) -> int:
    """Return how many numbers a file holds."""
    return sum(math.prod(shape) for shape in header.shapes.values())
