"""Outer factors kept on disk, by the content of the weight that they were found in.

Off unless asked for: `with cached_outer_factors():` around whatever makes adapters, or
`NoraConfig(outer_cache=...)`. A file is believed only if its checksum holds; else the factors are
found again. Writers replace whole files, so processes may share a folder.
"""

import contextlib
import hashlib
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.nora.config import NoraConfig
from nora_studio.nora.svd import outer_factors

NAMES = ("up", "singular", "down")
RECIPE = "nora outer factors 1"
"""Part of every key: another number where the factors would come out differently."""

SMALLEST = 256
"""Weights with a smaller side below this are decomposed faster than read."""

LIMIT_BYTES = 4 * 1024**3
"""SDXL's three adapted parts take about half a gigabyte at outer rank 64."""

Factors = tuple[Tensor, Tensor, Tensor]


def default_cache_folder() -> Path:
    """Where the user keeps such things: NORA_STUDIO_CACHE, XDG_CACHE_HOME or ~/.cache."""
    own, shared = os.environ.get("NORA_STUDIO_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser() / "outer"
    base = Path(shared) if shared else Path.home() / ".cache"
    return base / "nora-studio" / "outer"


class OuterCache:
    """A folder of outer factors, one file a weight, bounded in size."""

    def __init__(self, folder: Path | str | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        """Name a folder (None: `default_cache_folder`); it is made when first written to."""
        self.folder = default_cache_folder() if folder is None else Path(folder).expanduser()
        self.limit_bytes = limit_bytes
        self.is_writable = True

    def outer_factors(
        self, weight: Tensor, rank: int, outer: str, mean_abs_input: Tensor | None = None
    ) -> Factors:
        """As `svd.outer_factors`, to the bit; read from the folder where they are there."""
        if min(weight.shape) < SMALLEST:
            return outer_factors(weight, rank, outer, mean_abs_input)
        file = self.folder / f"{_key(weight, rank, outer, mean_abs_input)}.safetensors"
        dtype = torch.promote_types(weight.dtype, torch.float32)
        rows, columns = weight.shape
        factors = _read(file, ((rows, rank), (rank,), (rank, columns)), dtype)
        if factors is None:
            factors = outer_factors(weight, rank, outer, mean_abs_input)
            self._write(file, factors)
        up, singular, down = (factor.to(weight.device) for factor in factors)
        return up, singular, down

    def _write(self, file: Path, factors: Factors) -> None:
        if not self.is_writable:
            return
        tensors = {name: factor.detach().cpu() for name, factor in zip(NAMES, factors)}
        content = save(tensors, metadata={"sha256": _checksum(tensors)})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, fresh = tempfile.mkstemp(dir=self.folder, suffix=".new")
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            Path(fresh).replace(file)
        except OSError as error:
            # A convenience is no reason to stop a training.
            self.is_writable = False
            warnings.warn(f"outer factors are not kept in {self.folder}: {error}.", stacklevel=2)

    def prune(self) -> None:
        """Remove the files used longest ago until the folder is within its limit."""
        sizes: list[tuple[float, int, Path]] = []
        for file in [*self.folder.glob("*.safetensors"), *self.folder.glob("*.new")]:
            # Another process may prune the same folder.
            with contextlib.suppress(OSError):
                found = file.stat()
                if file.suffix == ".new" and time.time() - found.st_mtime > 3600:
                    file.unlink()  # Left by a process that was killed.
                elif file.suffix != ".new":
                    sizes.append((found.st_mtime, found.st_size, file))
        excess = sum(size for _, size, _ in sizes) - self.limit_bytes
        for _, size, file in sorted(sizes):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                file.unlink()
            excess -= size


_current: ContextVar[OuterCache | None] = ContextVar("outer_cache", default=None)


@contextlib.contextmanager
def cached_outer_factors(
    folder: Path | str | None = None, limit_bytes: int = LIMIT_BYTES
) -> Iterator[OuterCache]:
    """Within the block, NoRA adapters that are made read and keep their outer factors on disk.

    Args:
        folder: None is `default_cache_folder()`.
        limit_bytes: To which the folder is cut when the block ends.
    """
    cache = OuterCache(folder, limit_bytes)
    token = _current.set(cache)
    try:
        yield cache
    finally:
        _current.reset(token)
        cache.prune()


def start_factors(weight: Tensor, config: NoraConfig, name: str) -> Factors:
    """What a layer's adapter starts from, through the config's cache or the context's, if any.

    Raises:
        StudioError: As `svd.outer_factors`, with the layer's name.
    """
    cache = OuterCache(config.outer_cache) if config.outer_cache else _current.get()
    find = outer_factors if cache is None else cache.outer_factors
    mean_abs_input = (config.mean_abs_inputs or {}).get(name)
    try:
        return find(weight, config.outer_rank, config.outer, mean_abs_input)
    except StudioError as error:
        raise StudioError(f"{name}: {error} Or take it out of the targets.") from error


def _key(weight: Tensor, rank: int, outer: str, mean_abs_input: Tensor | None) -> str:
    digest = hashlib.sha256(f"{RECIPE} {rank} {outer}".encode())
    for tensor in (weight, mean_abs_input if outer == "activation" else None):
        if tensor is not None:
            digest.update(f" {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous()
    array: Any = plain.flatten().view(torch.uint8).numpy()
    return memoryview(array)


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in NAMES:
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _read(file: Path, shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> Factors | None:
    """Read one file and mark it as used; None where it is absent or damaged in any way."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in NAMES}
            checksum = (opened.metadata() or {}).get("sha256")
        os.utime(file)
    except (OSError, SafetensorError):
        return None
    for name, shape in zip(NAMES, shapes):
        if tuple(tensors[name].shape) != shape or tensors[name].dtype != dtype:
            return None
    if checksum != _checksum(tensors):
        return None
    return tensors["up"], tensors["singular"], tensors["down"]
