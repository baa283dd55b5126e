"""Put modules on a device, wait for it, name it, and say what it holds."""

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def is_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def device_name(device: str) -> str:
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


def wait_for(device: str) -> None:
    """Wait for queued work, so that clocks tell the truth."""
    if is_gpu(device):
        torch.cuda.synchronize()


def release_memory(device: str) -> None:
    """Give unused memory back, so that another process finds it."""
    if is_gpu(device):
        torch.cuda.empty_cache()


def peak_gibibytes(device: str) -> float | None:
    """The most GPU memory that tensors took so far; None on a CPU."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 1) if is_gpu(device) else None
