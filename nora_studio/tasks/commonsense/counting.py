"""Count the multiplications and the memory of a step without the hardware to run it.

The trainer's own step runs on PyTorch's fake tensors, which have no data, so that a full-size model
needs no GPU and hardly any memory. Time cannot be counted this way.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nora_studio.runs.strict_json import JsonObject
from nora_studio.tasks.commonsense.costs import StepRunner, Variant, build_base


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live storages, each once, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}

    def note(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def gone(_: object) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        return result


@contextlib.contextmanager
def replacing_weights_on_conversion() -> Iterator[None]:
    """Make modules that change dtype replace their weights, within the block.

    PyTorch changes weights in place, which sometimes fails with fake tensors.
    """

    def apply_replacing(
        self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> nn.Module:
        for child in self.children() if recurse else ():
            apply_replacing(child, fn)
        for name, weight in self._parameters.items():
            if weight is None:
                continue
            changed = fn(weight.detach())
            if changed.dtype != weight.dtype:
                self._parameters[name] = nn.Parameter(changed, weight.requires_grad)
        for name, buffer in self._buffers.items():
            self._buffers[name] = None if buffer is None else fn(buffer)
        return self

    before = nn.Module._apply
    nn.Module._apply = apply_replacing
    try:
        yield
    finally:
        nn.Module._apply = before


def count(
    shape: str, variant: Variant, rows: int, tokens: int, layers: int | None = None
) -> JsonObject:
    """Count the multiplications and memory of a training step in bfloat16.

    AdamW's two moments of each trained weight are in memory throughout; its own step is not run.
    The overhead of an allocator and a GPU's libraries is not included.

    Args:
        shape: A name in `VARIANTS`.
        layers: Number of blocks, fewer than the shape has.

    Returns:
        parameters; tflop, multiplications and additions of a step; peak_gib, and base_gib, its part
        of the frozen weights. Or "failed", with the reason that they cannot be counted.
    """
    try:
        with replacing_weights_on_conversion(), FakeTensorMode(), LiveBytes() as live:
            return _count(live, shape, variant, rows, tokens, layers)
    except DataDependentOutputException:
        return {"failed": "not counted: what is computed depends on values"}


def _count(
    live: LiveBytes, shape: str, variant: Variant, rows: int, tokens: int, layers: int | None
) -> JsonObject:
    base = build_base(shape, torch.device("cpu"), layers)
    frozen = live.now
    runner = StepRunner.on(base, variant, "bf16")
    moments = [torch.zeros_like(weight) for weight in runner.parameters * 2]
    ids = torch.zeros(rows, tokens, dtype=torch.int64)
    batch = {
        "input_ids": ids,
        "labels": ids,
        "position_ids": torch.arange(tokens).expand(rows, tokens),
        "share": torch.ones(rows) / (rows * tokens),
    }
    live.peak = live.now
    with FlopCounterMode(display=False) as flops:
        runner.forward_and_backward(1, batch)
    del moments
    runner.accelerator.free_memory()
    return {
        "parameters": sum(weight.numel() for weight in runner.parameters),
        "tflop": round(flops.get_total_flops() / 1e12, 3),
        "base_gib": round(frozen / 2**30, 3),
        "peak_gib": round(live.peak / 2**30, 3),
    }
