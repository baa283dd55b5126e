"""Digest a base's weights as its files store them, so that any changed number shows.

`fingerprints` looks at 16 matrices, in the precision that they were loaded in. The digest covers
every number as it is stored, so it is the same whether a model was loaded in float32, bfloat16 or 8
bits, from one file or several, and whatever their names. It takes one pass over the files; the
result is cached in the user's cache folder, keyed by the files' paths, sizes, times and inodes.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from nora_studio.runs.atomic import write_text
from nora_studio.runs.disk_cache import default_cache_folder
from nora_studio.runs.tensor_headers import read_header
from nora_studio.runs.weight_files import weights_of_folder

VERSION = 1
THREADS = 8
CHUNK_BYTES = 1 << 22
FRESH_SECONDS = 2.0
"""A file written less than this long ago may be written again within the same tick of the disk's
clock, so its digest is not cached."""
_KEPT = "kept_base"
_FLOATS = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
}  # fmt: skip
# Prefixes that some releases of a library put before every name in a file.
_PREFIXES = ("text_model.", "model.")
_DIGEST = re.compile(r"[A-Z0-9_+]+:[0-9a-f]{64}")
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class _Files:
    """Where a module's weights were read from."""

    files: tuple[Path, ...]
    is_kept: bool = True
    """Whether their digest may be read from and written to the user's cache folder."""


class _Stored(NamedTuple):
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    size: int


def keep_base_folder(module: nn.Module, model: str | Path, part: str = "") -> None:
    """Record on a module which files it was loaded from; `base_digest` reads them when called.

    Args:
        module: As loaded by diffusers or transformers.
        model: A folder in their format, or the name of a model on the Hub.
        part: The module's folder within a pipeline.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir() and str(model).count("/") == 1:
        config = f"{part}/config.json" if part else "config.json"
        found = try_to_load_from_cache(str(model), config)
        if not isinstance(found, str):
            return
        setattr(module, _KEPT, _Files(weights_of_folder(Path(found).parent)))
        return
    setattr(module, _KEPT, _Files(weights_of_folder(folder / part)))


def disable_disk_cache(module: nn.Module) -> None:
    """Make `base_digest` compute a module's digest without the user's cache folder."""
    known = vars(module).get(_KEPT)
    if isinstance(known, _Files):
        setattr(module, _KEPT, replace(known, is_kept=False))


def keep_base_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Store the digest of tensors on a module, for a base that is not loaded from known files.

    Args:
        module: The module whose base weights they are.
        tensors: As read, before they are changed or cast.
    """
    lines = [
        _describe_tensor(name, _FLOATS[tensor.dtype], tuple(tensor.shape), _digest_of(tensor))
        for name, tensor in tensors.items()
        if tensor.dtype in _FLOATS
    ]
    setattr(module, _KEPT, _combine_digests(lines))


def base_digest(module: nn.Module) -> str:
    """Return the digest of a module's base weights, without adapters and before quantisation.

    Returns:
        The dtypes that its numbers are stored in and 64 hexadecimal digits, "F32:..."; empty if the
        files are not known or cannot be read.
    """
    kept = vars(module).get(_KEPT)
    if isinstance(kept, _Files):
        kept = _of_files(kept) if kept.files else ""
        setattr(module, _KEPT, kept)
    return kept or ""


def digests_of(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return the digests of some parts of a base, leaving out parts that have none."""
    found = {part: base_digest(module) for part, module in modules.items()}
    return {part: digest for part, digest in found.items() if digest}


def digests_differ(one: str, other: str) -> bool:
    """Return whether two digests show that the weights differ.

    Digests of bases in different precisions, or an unknown one, cannot be compared; then only
    `fingerprints` can compare them.
    """
    return bool(one and other) and one != other and _stored_as(one) == _stored_as(other)


def _stored_as(digest: str) -> str:
    return digest.partition(":")[0]


def _of_files(base: _Files) -> str:
    files = base.files
    try:
        if not base.is_kept:
            return _hash_all(list(_tensors(files)))
        stats = [(str(file.resolve()), *_file_state(file)) for file in files]
        key = hashlib.sha256(json.dumps([VERSION, stats]).encode()).hexdigest()
        kept = default_cache_folder("bases") / f"{key}.txt"
        known = _read(kept)
        if known:
            return known
        digest = _hash_all(list(_tensors(files)))
        newest = max(file.stat().st_mtime for file in files)
        unchanged = stats == [(str(file.resolve()), *_file_state(file)) for file in files]
    except _UNREADABLE:
        return ""
    if unchanged and time.time() - newest > FRESH_SECONDS:
        _write(kept, digest)
    return digest


def _file_state(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _read(kept: Path) -> str:
    try:
        text = kept.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return text if _DIGEST.fullmatch(text) else ""


def _write(kept: Path, digest: str) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_text(kept, digest + "\n")
    except OSError:
        return  # The next call hashes the files again.


def _tensors(files: tuple[Path, ...]) -> Iterator[_Stored]:
    """Yield every floating-point tensor in some safetensors files."""
    for file in files:
        header = read_header(file)
        for name, dtype in header.dtypes.items():
            if "F" in dtype:
                begin, end = header.places[name]
                yield _Stored(name, dtype, header.shapes[name], file, begin, end - begin)


def _hash_all(tensors: list[_Stored]) -> str:
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        # The largest first, so that the threads finish together; hashing releases the GIL.
        ordered = sorted(tensors, key=lambda tensor: -tensor.size)
        digests = list(pool.map(_digest_in_file, ordered))
    return _combine_digests(
        [
            _describe_tensor(one.name, one.dtype, one.shape, digest)
            for one, digest in zip(ordered, digests, strict=True)
        ]
    )


def _digest_in_file(tensor: _Stored) -> str:
    digest, left = hashlib.sha256(), tensor.size
    buffer = memoryview(bytearray(min(CHUNK_BYTES, max(1, left))))
    with tensor.file.open("rb", buffering=0) as stream:
        stream.seek(tensor.start)
        while left:
            count = stream.readinto(buffer[: min(left, len(buffer))])
            if not count:
                raise ValueError(f"{tensor.file} is truncated")
            digest.update(buffer[:count])
            left -= count
    return digest.hexdigest()


def _digest_of(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _describe_tensor(name: str, dtype: str, shape: tuple[int, ...], digest: str) -> tuple[str, str]:
    """Return a tensor's canonical name, and a text of its dtype, shape and digest."""
    prefix = next((one for one in _PREFIXES if name.startswith(one)), "")
    return name.removeprefix(prefix), f"{dtype} {list(shape)} {digest}"


def _combine_digests(lines: list[tuple[str, str]]) -> str:
    # Tied tensors are stored once in some files and twice in others, so only the first of equal
    # content counts.
    first: dict[str, str] = {}
    for name, content in sorted(lines):
        first.setdefault(content, name)
    text = "\n".join(sorted(f"{name} {content}" for content, name in first.items()))
    kinds = sorted({content.partition(" ")[0] for content in first})
    return f"{'+'.join(kinds)}:{hashlib.sha256(text.encode()).hexdigest()}" if kinds else ""
