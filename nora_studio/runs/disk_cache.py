"""A cache of tensors on disk, keyed by what they were made from, shared between runs.

A file whose checksum does not match counts as absent. Files are replaced atomically, so processes
may share a folder. The cache's size is limited.
"""

import contextlib
import hashlib
import os
import time
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nora_studio.runs.atomic import temporary_path, tidy

LIMIT_BYTES = 4 * 1024**3
"""About eight thousand encoded photos at 1024 pixels."""

STALE_SECONDS = 3600
"""Age at which a half-written file counts as left by a killed process."""


def default_cache_folder(kind: str) -> Path:
    """Return the user's cache folder: in NORA_STUDIO_CACHE, XDG_CACHE_HOME or ~/.cache."""
    own, shared = os.environ.get("NORA_STUDIO_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser() / kind
    base = Path(shared) if shared else Path.home() / ".cache"
    return base / "nora-studio" / kind


class TensorCache:
    """A folder of named tensors, one file per key."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """Set the folder, which is created at the first write."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.is_writable = True

    def _file(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """Return the tensors written under a key; None if they are absent or damaged."""
        file = self._file(key)
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                checksum = (opened.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        if checksum != _checksum(tensors):
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # The least recently used files are removed first.
        return tensors

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Write tensors under a key; if the folder cannot be written, warn once and go on."""
        if not self.is_writable:
            return
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = save(plain, metadata={"sha256": _checksum(plain)})
        fresh = temporary_path(self._file(key))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(content)
            fresh.replace(self._file(key))
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            # A training does not need the cache.
            self.is_writable = False
            warnings.warn(f"the cache {self.folder} cannot be written: {error}.", stacklevel=2)

    def prune(self) -> None:
        """Remove the least recently used files until the folder is within its limit.

        Half-written files of killed processes are removed too.
        """
        with contextlib.suppress(OSError):
            tidy(self.folder)
        kept: list[tuple[float, int, Path]] = []
        for file in [*self.folder.glob("*.safetensors"), *self.folder.glob("*.new")]:
            # Another process may prune the same folder.
            with contextlib.suppress(OSError):
                found = file.stat()
                if file.suffix == ".new" and time.time() - found.st_mtime > STALE_SECONDS:
                    file.unlink()
                elif file.suffix != ".new":
                    kept.append((found.st_mtime, found.st_size, file))
        excess = sum(size for _, size, _ in kept) - self.limit_bytes
        for _, size, file in sorted(kept):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                file.unlink()
            excess -= size


def weights_digest(module: nn.Module) -> str:
    """Return a digest of a module's weights, from names, shapes, dtypes, and sums over all bits.

    Unlike `fingerprints.fingerprint`, it reads every number and depends on the dtype. It is as fast
    as memory, while a cryptographic hash of SDXL's text encoders would take seconds.
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        # Sums of halves: swaps of numbers across the middle are found as well.
        sums = [int(half.sum(dtype=torch.int64)) for half in _words(tensor).chunk(2)]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {sums} ".encode())
    return digest.hexdigest()


def _words(tensor: Tensor) -> Tensor:
    """Return a tensor's bits as integers: of 64 bits if possible, which sum forty times faster."""
    flat = tensor.detach().contiguous().flatten()
    whole = flat.numel() * flat.element_size() % 8 == 0
    aligned = flat.storage_offset() * flat.element_size() % 8 == 0
    return flat.view(torch.int64 if whole and aligned else torch.uint8)


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
