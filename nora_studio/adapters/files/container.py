"""Safetensors files of adapters: written to the same bytes each time; read by `tensor_files`.

The one place that writes adapter files. The library's own writer puts metadata in random order, so
that two saves of one adapter would differ.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import beside, tidy
from nora_studio.runs.tensor_files import Header, count_numbers, read_header, read_tensors

__all__ = ["Header", "count_numbers", "read_header", "read_tensors", "write_tensors"]

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
