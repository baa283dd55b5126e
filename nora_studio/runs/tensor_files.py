"""Reading and writing of safetensors files.

Headers are checked without reading tensors (`tensor_headers`); numbers are checked when they are
loaded. The same tensors are always written to the same bytes: the library's own writer puts
metadata in random order, so that two saves of one adapter would differ.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import temporary_path, tidy
from nora_studio.runs.remedies import get_again
from nora_studio.runs.tensor_headers import (
    Header,
    check_floats,
    damaged,
    format_tensor_name,
    read_header,
    stamp_of,
)

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


def read_tensors(file: Path, header: Header | None = None) -> dict[str, Tensor]:
    """Read every tensor of an adapter into separate memory.

    Args:
        header: The header if it was read before; it is read again if the file has changed.

    Raises:
        StudioError: the file is not a complete safetensors file, a tensor does not hold
            floating-point numbers, or a number is NaN or infinite.
    """
    if header is None or not _is_of(header, file):
        header = read_header(file)
    check_floats(file, header)
    try:
        # Copied from the memory-mapped file into aligned memory: CPU kernels round differently on
        # unaligned operands, and a reloaded adapter must generate the same images as before.
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise damaged(file, error) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _all_finite(tensor):
            raise StudioError(
                f"{file} has NaN or infinity in {format_tensor_name(name)}. {get_again(file)}"
            )
    return tensors


def _is_of(header: Header, file: Path) -> bool:
    """Return whether a header was read from the file as it is now."""
    try:
        return header.stamp == stamp_of(file.stat())
    except OSError:
        return False


def _all_finite(tensor: Tensor) -> bool:
    if tensor.element_size() == 1:  # float8 has no isfinite kernel.
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically; the same input gives the same bytes.

    Source: the format's description at github.com/huggingface/safetensors. Tensors are ordered by
    falling size of their elements, then by name, so that each is aligned to its element size.

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
    fresh = temporary_path(file)
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
        with contextlib.suppress(OSError):  # Its parent may not even be a folder.
            fresh.unlink(missing_ok=True)


def _bytes_of(tensor: Tensor) -> memoryview | bytes:
    plain = tensor.detach().to("cpu").contiguous().reshape(-1)
    if plain.numel() == 0:
        return b""
    return plain.view(torch.uint8).numpy().data
