"""Tensors kept on disk by what they were made from, shared between runs, bounded in bytes.

A file is believed only if its checksum holds; anything else counts as absent and is made again.
Writers replace whole files, so processes may share a folder.
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

from nora_studio.runs.atomic import beside, tidy

LIMIT_BYTES = 4 * 1024**3
"""About eight thousand encoded photos at 1024 pixels."""

STALE_SECONDS = 3600
"""After so long, a half-written file belongs to a process that was killed."""


def default_cache_folder(kind: str) -> Path:
    """Where the user keeps such things: NORA_STUDIO_CACHE, XDG_CACHE_HOME or ~/.cache."""
    own, shared = os.environ.get("NORA_STUDIO_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser() / kind
    base = Path(shared) if shared else Path.home() / ".cache"
    return base / "nora-studio" / kind


class TensorCache:
    """A folder of named tensors, one file a key."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """Name a folder; it is made when first written to."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.is_writable = True

    def _file(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def read(self, key: str) -> dict[str, Tensor] | None:
        """What was written under a key, to the bit; None where it is absent or damaged."""
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
            os.utime(file)  # The files used longest ago go first.
        return tensors

    def write(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Keep tensors under a key; warn once and go on where the folder cannot be written."""
        if not self.is_writable:
            return
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        content = save(plain, metadata={"sha256": _checksum(plain)})
        fresh = beside(self._file(key))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(content)
            fresh.replace(self._file(key))
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            # A convenience is no reason to stop a training.
            self.is_writable = False
            warnings.warn(f"nothing is kept in {self.folder}: {error}.", stacklevel=2)

    def prune(self) -> None:
        """Remove the files used longest ago until the folder is within its limit.

        What killed processes left half written goes too.
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
    """Tell any change of a module's weights: names, shapes, dtypes, and sums over all bits.

    Unlike `fingerprints.fingerprint` it looks at every number and asks for the same dtype; at the
    speed of memory, where a cryptographic hash of SDXL's text encoders would take seconds.
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        # Sums of halves: numbers that change places across the middle do not go unseen either.
        sums = [int(half.sum(dtype=torch.int64)) for half in _words(tensor).chunk(2)]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {sums} ".encode())
    return digest.hexdigest()


def _words(tensor: Tensor) -> Tensor:
    """A tensor's bits as integers: of 64 bits, summed forty times faster, where they come out."""
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
