"""Peak memory of this process: of its GPU, or of the machine."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

GIB = 2**30
CONTEXT_GIB = 0.6
"""Memory that CUDA itself takes on a GPU for a process, which torch does not count."""


@dataclass(frozen=True)
class Peak:
    """Peak memory so far, in GiB."""

    device: str
    held_gib: float
    """Of tensors on a GPU; of the whole process on a CPU."""
    needed_gib: float
    """Memory that a device must have: on a GPU including the allocator's gaps and CUDA's own."""
    total_gib: float
    """Memory that the device has."""

    @property
    def is_nearly_full(self) -> bool:
        """Whether so little is left that a desktop's own use may exhaust it."""
        return self.needed_gib > 0.95 * self.total_gib


def peak_memory(device: torch.device) -> Peak:
    """Return the peak of this process so far."""
    if device.type == "cuda":
        return Peak(
            device=torch.cuda.get_device_name(device),
            held_gib=torch.cuda.max_memory_allocated(device) / GIB,
            needed_gib=torch.cuda.max_memory_reserved(device) / GIB + CONTEXT_GIB,
            total_gib=torch.cuda.get_device_properties(device).total_memory / GIB,
        )
    held = _peak_resident() / GIB
    return Peak("CPU", held, held, psutil.virtual_memory().total / GIB)


def _peak_resident() -> int:
    """Return the process's largest resident memory in bytes.

    Not from `getrusage`, whose figure a child process inherits from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    memory = psutil.Process().memory_info()
    if os.name == "nt":
        return memory.peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    import resource  # Not on Windows.

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Bytes on macOS.


def limit_memory(gib: float) -> None:
    """Limit torch to the memory that it would have on a GPU of a given size."""
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, gib - CONTEXT_GIB) / total))


def memory_gib(device: torch.device) -> float:
    """Return the peak memory of a GPU so far, or the process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30
