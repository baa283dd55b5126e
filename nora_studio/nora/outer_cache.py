"""Outer factors kept on disk, by the content of the weight that they were found in.

Off unless asked for: `with cached_outer_factors():` around whatever makes adapters, or
`NoraConfig(outer_cache=...)`.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.nora.config import NoraConfig
from nora_studio.nora.svd import outer_factors
from nora_studio.runs.disk_cache import LIMIT_BYTES, TensorCache, default_cache_folder

KIND = "outer"
"""Folder within the user's cache. SDXL's three parts take half a gigabyte at outer rank 64."""

NAMES: tuple[str, ...] = ("up", "singular", "down")
RECIPE = "nora outer factors 1"
"""Part of every key: another number where the factors would come out differently."""

SMALLEST = 256
"""Weights with a smaller side below this are decomposed faster than read."""

Factors = tuple[Tensor, Tensor, Tensor]


class OuterCache:
    """Outer factors by weight, in a folder of bounded size."""

    def __init__(self, folder: Path | str | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        """Name a folder (None: the user's); it is made when first written to."""
        place = default_cache_folder(KIND) if folder is None else Path(folder).expanduser()
        self.store = TensorCache(place, limit_bytes)

    def outer_factors(
        self, weight: Tensor, rank: int, outer: str, mean_abs_input: Tensor | None = None
    ) -> Factors:
        """As `svd.outer_factors`, to the bit; read from the folder where they are there."""
        if min(weight.shape) < SMALLEST:
            return outer_factors(weight, rank, outer, mean_abs_input)
        key = _key(weight, rank, outer, mean_abs_input)
        kept = self.store.read(key)
        if kept is None or not _fits(kept, weight, rank):
            kept = dict(zip(NAMES, outer_factors(weight, rank, outer, mean_abs_input), strict=True))
            self.store.write(key, kept)
        up, singular, down = (kept[name].to(weight.device) for name in NAMES)
        return up, singular, down

    def prune(self) -> None:
        """Remove the files used longest ago until the folder is within its limit."""
        self.store.prune()


def _fits(kept: dict[str, Tensor], weight: Tensor, rank: int) -> bool:
    """Whether tensors have the shapes and dtype that this weight's factors have."""
    (rows, columns), dtype = weight.shape, torch.promote_types(weight.dtype, torch.float32)
    shapes = dict(zip(NAMES, ((rows, rank), (rank,), (rank, columns)), strict=True))
    return {name: tuple(tensor.shape) for name, tensor in kept.items()} == shapes and all(
        tensor.dtype == dtype for tensor in kept.values()
    )


class OuterFinder(Protocol):
    """Whatever finds outer factors as `svd.outer_factors` does."""

    def outer_factors(
        self, weight: Tensor, rank: int, outer: str, mean_abs_input: Tensor | None = None
    ) -> Factors: ...


_current: ContextVar[OuterFinder | None] = ContextVar("outer_cache", default=None)


@contextlib.contextmanager
def cached_outer_factors(
    folder: Path | str | None = None, limit_bytes: int = LIMIT_BYTES
) -> Iterator[OuterCache]:
    """Within the block, NoRA adapters that are made read and keep their outer factors on disk.

    Args:
        folder: None is the user's cache folder.
        limit_bytes: To which the folder is cut when the block ends.
    """
    cache = OuterCache(folder, limit_bytes)
    token = _current.set(cache)
    try:
        yield cache
    finally:
        _current.reset(token)
        cache.prune()


@contextlib.contextmanager
def outer_factors_from(finder: OuterFinder) -> Iterator[None]:
    """Within the block, NoRA adapters that are made take their outer factors from `finder`."""
    token = _current.set(finder)
    try:
        yield
    finally:
        _current.reset(token)


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
