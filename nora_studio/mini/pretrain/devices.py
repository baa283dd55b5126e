"""Modules on a device: move them, wait for it, and read its name and its memory."""

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def is_gpu(device: str) -> bool:
    """Return whether a device is a CUDA GPU."""
    return torch.device(device).type == "cuda"


def device_name(device: str) -> str:
    """Return the GPU's name, or the number of CPU threads."""
    if is_gpu(device):
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def move(
    module: Module, device: str, memory_format: torch.memory_format = torch.preserve_format
) -> Module:
    """Move a module in place; `memory_format` is that of its four-dimensional weights."""
    module.to(device)
    module.to(memory_format=memory_format)
    return module


def synchronize(device: str) -> None:
    """Wait for a device's queued work, so that measured times are correct."""
    if is_gpu(device):
        torch.cuda.synchronize()


def release_memory(device: str) -> None:
    """Return unused memory to the system, for other processes."""
    if is_gpu(device):
        torch.cuda.empty_cache()


def peak_gibibytes(device: str) -> float | None:
    """Return the peak of allocated GPU memory; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 1) if is_gpu(device) else None
