"""Safetensors files: written to the same bytes each time, read whole or not at all.

The one place that writes adapter files. The library's own writer puts metadata in random order, so
that two saves of one adapter would differ.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from nora_studio.atomic import beside, tidy
from nora_studio.errors import StudioError

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})
# A zip archive (torch.save), then pickle's protocols 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Header:
    """What stands in a file before its tensors."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """Safetensors' names: "F32", "BF16", ..."""


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file beside and put it in place; the same input gives the same bytes.

    Source: the format's description at github.com/huggingface/safetensors. Tensors stand by
    falling size of their numbers, then by name, so that each is aligned to its own.

    Raises:
        StudioError: the file cannot be written.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    offset = 0
    for name in names:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file = Path(file)
    fresh = beside(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tidy(file.parent, signed=True)
        with fresh.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                stream.write(_bytes_of(tensors[name]))
        fresh.replace(file)
    except OSError as error:
        raise StudioError(f"{file} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):  # its folder may not even be one
            fresh.unlink(missing_ok=True)


def _bytes_of(tensor: Tensor) -> memoryview | bytes:
    plain = tensor.detach().to("cpu").contiguous().reshape(-1)
    if plain.numel() == 0:
        return b""
    return plain.view(torch.uint8).numpy().data


def check_container(file: Path) -> None:
    """Refuse what is no safetensors file by name or by its first bytes, pickles first of all.

    Raises:
        StudioError: it is not there, is a folder, or is another kind of file.
    """
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise StudioError(f"expected a .safetensors file; {file} {problem}. Check the path.")
    try:
        with file.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise StudioError(f"{file} cannot be read: {error.strerror}.") from error
    # A safetensors file begins with the header's length and "{": its zip look-alike would need a
    # header of 67 million bytes, so the brace decides.
    is_safetensors = len(start) == 9 and start[8:] == b"{"
    is_pickle = start.startswith(_PICKLE_STARTS) and not is_safetensors
    if is_pickle or file.suffix.lower() in _PICKLE_SUFFIXES:
        raise StudioError(
            f"{file} is a pickle, which can run any program when it is read, and is never opened "
            "here. Get the adapter as .safetensors."
        )
    if not is_safetensors:
        raise StudioError(
            f"{file} is no safetensors file (its first bytes are not a header). Download or "
            "export it again."
        )


def read_header(file: Path) -> Header:
    """Read names, shapes and metadata, no tensor.

    Raises:
        StudioError: it is no whole safetensors file.
    """
    check_container(file)
    try:
        with safe_open(file, framework="pt") as archive:
            metadata = archive.metadata() or {}
            slices = {name: archive.get_slice(name) for name in archive.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: str(part.get_dtype()) for name, part in slices.items()}
    except (OSError, SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise _damaged(file, error) from error
    return Header(dict(metadata), shapes, dtypes)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read every tensor into memory of its own.

    Raises:
        StudioError: it is no whole safetensors file, or a number in it is NaN or infinite.
    """
    check_container(file)
    try:
        # Cloned out of the file's mapping into aligned memory: CPU kernels round differently on
        # unaligned operands, and a reloaded adapter must draw what the trained one drew.
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise _damaged(file, error) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _all_finite(tensor):
            raise StudioError(f"{file} holds NaN or infinity in {name}. Train or export again.")
    return tensors


def _all_finite(tensor: Tensor) -> bool:
    if tensor.element_size() == 1:  # float8 has no isfinite kernel
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())


def _damaged(file: Path, error: Exception) -> StudioError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return StudioError(f"{file} cannot be read: {reason}. Restore it, or export it again.")


def count_numbers(header: Header) -> int:
    """How many numbers a file holds."""
    return sum(math.prod(shape) for shape in header.shapes.values())
