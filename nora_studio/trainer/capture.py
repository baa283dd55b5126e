"""CUDA graphs of a training step's gradients: recorded once for each shape of batch, then replayed.

Eagerly, the host launches some 25,000 small kernels for a step of SDXL, and the GPU waits for it
most of the time. A graph launches them at once. What follows (clipping, the optimizer, averages) is
a few hundred kernels, which the host launches while the GPU still replays.
"""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from nora_studio.errors import first_line
from nora_studio.trainer.out_of_memory import is_out_of_memory
from nora_studio.trainer.train_state import Batch

MOST_GRAPHS = 8
"""Number of shapes of a run's batches with a graph each; steps of other shapes stay eager."""
TOLERANCE = 0.05
"""Largest relative difference of a graph's first loss and gradient norm from those of the eager
step before it; kernels in half precision differ by a hundredth of that."""

Compute = Callable[[Batch], Tensor]
"""Adds a batch's gradients to the parameters' and returns its loss, detached, without any wait."""


class CaptureError(Exception):
    """A step cannot be captured; the message says why."""


@dataclass
class _Graph:
    """A captured step, with all tensors that it reads and where they are."""

    graph: torch.cuda.CUDAGraph
    inputs: Batch
    loss: Tensor
    tensors: list[Tensor]
    addresses: list[int]


class StepGraphs:
    """The graphs of one run, by the shapes of a batch.

    Gradients are added to tensors that stay where they are, so a parameter's `grad` must be cleared
    in place. A parameter that gets no gradient keeps none.
    """

    def __init__(
        self,
        compute: Compute,
        clear: Callable[[], object],
        module: nn.Module,
        parameters: Sequence[nn.Parameter],
        pool: Any,
    ) -> None:
        """Prepare to capture.

        Args:
            compute: Computes gradients eagerly.
            clear: Sets all gradients to zero, in place.
            module: Holds all tensors that it reads.
            parameters: All that are trained, now or later.
            pool: Torch's handle of the graphs' memory. Twins share it: they never run at one time.
        """
        self.compute, self.clear, self.module, self.pool = compute, clear, module, pool
        self.parameters = list(parameters)
        self.graphs: dict[tuple[object, ...], _Graph] = {}
        self.device = self.parameters[0].device
        self.stream = torch.cuda.Stream(self.device)

    def gradients(self, batch: Batch) -> Tensor | None:
        """Compute a batch's gradients by a graph, captured first if it is the first of its shape.

        Args:
            batch: On the device, or in pinned memory.

        Returns:
            The loss, valid until the next call; None if the shapes get no graph.

        Raises:
            CaptureError: the step could not be captured. The state is as before the call, except
                for gradients, which must be cleared.
        """
        trained = sum(parameter.requires_grad for parameter in self.parameters)
        key = (trained, *((name, t.shape, t.dtype) for name, t in sorted(batch.items())))
        found = self.graphs.get(key)
        if found is not None and found.addresses != _addresses(found.tensors):
            self.graphs.clear()  # Something moved weights, as to the CPU and back.
            found = None
        if found is None:
            if self.graphs and next(iter(self.graphs))[0] != trained:
                self.graphs.clear()  # Some were frozen, so the old graphs are not used again.
            if len(self.graphs) >= MOST_GRAPHS:
                return None
            found = self.graphs[key] = self._captured(batch)
        else:
            for name, tensor in batch.items():
                found.inputs[name].copy_(tensor, non_blocking=True)
            found.graph.replay()
        return found.loss

    def _captured(self, batch: Batch) -> _Graph:
        """Capture and replay a step, after an eager one that every library prepares itself in."""
        inputs = {name: tensor.to(self.device, copy=True) for name, tensor in batch.items()}
        generator = torch.cuda.get_rng_state(self.device)
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                self.clear()
                expected = self._measured(self.compute(inputs))
            _free()  # For the graph's own memory.
            torch.cuda.set_rng_state(generator, self.device)
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                self.clear()
                loss = self.compute(inputs)
            current.wait_stream(self.stream)
            graph.replay()
            found = self._measured(loss)
            if not all(map(_is_near, found, expected)):
                raise CaptureError(
                    f"a replay gave loss and gradient norm {found}, the step itself {expected}"
                )
        except Exception as error:
            _restore_generator(generator, self.device)
            if isinstance(error, CaptureError):
                raise
            raise CaptureError(_reason(error)) from error
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return _Graph(graph, inputs, loss, tensors, _addresses(tensors))

    def _measured(self, loss: Tensor) -> tuple[float, float]:
        """Return the loss and the norm of all gradients; waits for the device."""
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return loss.item(), norm.item()


def _is_near(one: float, other: float) -> bool:
    """Compare two numbers; in float16 the first gradients may overflow, and then do so again."""
    if not (math.isfinite(one) and math.isfinite(other)):
        return not math.isfinite(one) and not math.isfinite(other)
    return abs(one - other) <= TOLERANCE * abs(other)


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _restore_generator(state: Tensor, device: torch.device) -> None:
    """Set the state of a device's generator, which a failed capture leaves unusable."""
    fresh = torch.Generator(device)
    fresh.set_state(state)
    index = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())


def _free() -> None:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    return "out of memory" if is_out_of_memory(error) else first_line(error).rstrip(".")
