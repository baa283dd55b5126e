"""Compile in a child process at the start, so that the parent finds the compiler's cache warm."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch

from nora_studio.mini.pretrain.devices import Module, is_gpu
from nora_studio.mini.pretrain.progress import Progress


def start_warm_up(
    warm_up: Callable[[int], None], batch: int, device: str, is_wanted: bool
) -> BaseProcess | None:
    """Run `warm_up(batch)` in a new process: build, compile, and take a step on random numbers.

    It returns None if nothing is to be compiled: on a CPU, or if not wanted.
    """
    if not (is_wanted and is_gpu(device)):
        return None
    process = multiprocessing.get_context("spawn").Process(target=warm_up, args=(batch,))
    process.start()
    return process


def compile_or_not(
    module: Module,
    warm_up: BaseProcess | None,  # None: do not compile the module
    progress: Progress,
    patience_seconds: float = 120.0,
) -> Module:
    """Compile a module if its warm-up succeeded; else return it, and print why if there was one."""
    if warm_up is None:
        return module
    start = progress.seconds()
    warm_up.join(max(1.0, min(patience_seconds, progress.left() / 4)))
    name, waited = type(module).__name__, progress.seconds() - start
    if warm_up.exitcode != 0:
        progress.say(f"{name}: not compiled, warm-up ended with {warm_up.exitcode}")
        if warm_up.is_alive():
            warm_up.kill()
        return module
    progress.say(f"{name}: compiling, waited {waited:.1f} s for the warm-up")
    torch._dynamo.config.suppress_errors = True  # fall back to eager
    return torch.compile(module)  # pyright: ignore[reportReturnType]


def set_precision(seed: int) -> None:
    """Enable TF32 products and cuDNN's tuning, and seed the random numbers."""
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
