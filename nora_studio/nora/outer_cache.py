"""Cache outer factors on disk, keyed by the content of the weight that they come from.

Nothing is cached by default: pass `find_outer=OuterCache()` to a `NoraConfig` or an `AdapterSpec`,
and call `prune` from time to time to keep the folder within its limit.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nora_studio.nora.svd import Factors, outer_factors
from nora_studio.runs.disk_cache import LIMIT_BYTES, TensorCache, default_cache_folder

KIND = "outer"
"""Folder within the user's cache. SDXL's three parts take half a gigabyte at outer rank 64."""

NAMES: tuple[str, ...] = ("up", "singular", "down")
RECIPE = "nora outer factors 1"
"""Part of every key; change the number whenever the factors would come out differently."""

SMALLEST = 256
"""Weights with a smaller side below this are decomposed faster than read."""


class OuterCache:
    """A `FindOuter` that keeps the factors of each weight in a folder of bounded size."""

    def __init__(self, folder: Path | str | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        """Set the folder (None: the user's cache); the first write creates it."""
        path = default_cache_folder(KIND) if folder is None else Path(folder).expanduser()
        self.store = TensorCache(path, limit_bytes)

    def __call__(
        self, weight: Tensor, rank: int, outer: str, mean_abs_input: Tensor | None = None
    ) -> Factors:
        """Return what `svd.outer_factors` returns, to the bit, from the folder if it is there."""
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
    """Return whether tensors have the shapes and dtype of this weight's factors."""
    (rows, columns), dtype = weight.shape, torch.promote_types(weight.dtype, torch.float32)
    shapes = dict(zip(NAMES, ((rows, rank), (rank,), (rank, columns)), strict=True))
    return {name: tuple(tensor.shape) for name, tensor in kept.items()} == shapes and all(
        tensor.dtype == dtype for tensor in kept.values()
    )


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
