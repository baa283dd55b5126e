"""One step of one run: gradients, eager or by a CUDA graph, then clipping and the optimizer."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.trainer.capture import CaptureError, StepGraphs
from nora_studio.trainer.train_state import Batch, StepCallback, TrainState


class Stepper:
    """Takes a run's steps. Create it after the weights are restored: it may stack them."""

    def __init__(
        self,
        state: TrainState,
        accumulate: int,
        max_gradient_norm: float,
        pool: Any = None,
        say: Callable[[str], object] = print,
    ) -> None:
        """Prepare a run for its steps.

        Args:
            accumulate: Micro-batches of each process's share of a batch.
            pool: Torch's handle of CUDA graphs' memory, shared by twins; None: every step is eager.
            say: Called with one line that says why a run's steps are eager on a GPU.
        """
        self.state, self.accumulate, self.max_gradient_norm = state, accumulate, max_gradient_norm
        self.say = say
        self.tensors = None if state.step_tensors is None else state.step_tensors()
        self.stacks = [] if self.tensors is None else self.tensors.stacks
        stacked = {id(p) for stack in self.stacks for p in stack.parameters}
        self.single = [p for p in state.parameters if id(p) not in stacked]
        self.graphs: StepGraphs | None = None
        if pool is not None and state.eager is not None:
            say(f"{state.label}: steps are not captured: {state.eager}.")
        elif pool is not None:
            module = state.accelerator.unwrap_model(state.model)
            self.graphs = StepGraphs(self._eager, self._zero, module, state.parameters, pool)

    def advance(self, batch: Batch, step: int) -> None:
        """Take one optimizer step, without waiting for the device.

        Args:
            batch: Of all processes, on the CPU.
            step: Its number, from 1.
        """
        state = self.state
        callbacks = _callbacks(state)
        for callback in callbacks:
            callback.before_step(step)
        loss = self._gradients(_share(batch, state.accelerator))
        norm = state.accelerator.clip_grad_norm_(state.parameters, self.max_gradient_norm)
        state.optimizer.step()
        for callback in callbacks:
            callback.after_step(step)
        state.schedule.step()
        self._clear()
        state.loss_sum += loss
        if norm is not None:
            state.gradient_norm = norm.detach()
        bad = (state.first_bad_step < 0) & ~torch.isfinite(loss)
        state.first_bad_step = torch.where(bad, step, state.first_bad_step)

    def _gradients(self, share: Batch) -> Tensor:
        """Compute the gradients of this process's share of a batch, and return its mean loss."""
        if self.graphs is not None:
            try:
                loss = self.graphs.gradients(share)
            except CaptureError as error:
                self.say(f"{self.state.label}: steps are not captured: {error}.")
                self.graphs = None
                self._clear()
            else:
                if loss is not None:
                    return loss
                self._zero()
        device = self.state.accelerator.device
        return self._eager({name: one.to(device, non_blocking=True) for name, one in share.items()})

    def _eager(self, share: Batch) -> Tensor:
        accelerator, model = self.state.accelerator, self.state.model
        total = torch.zeros((), device=accelerator.device)
        for left, piece in _pieces(share, self.accumulate):
            if self.tensors is not None:
                self.tensors.form()
            # Processes reduce their gradients only once, with the last micro-batch.
            with accelerator.no_sync(model) if left else contextlib.nullcontext():
                loss = model(**piece) / self.accumulate
                accelerator.backward(loss)
            if self.tensors is not None:
                self.tensors.drop()  # They keep the graph of this backward pass alive.
            total += loss.detach()
        return total

    def _clear(self) -> None:
        """Clear the gradients; with graphs, each step begins with that."""
        if self.graphs is None:
            for parameter in self.single:
                parameter.grad = None
            self._zero()

    def _zero(self) -> None:
        """Set the gradients that are there to zero, in place."""
        gradients = [p.grad for p in self.single if p.grad is not None]
        gradients += [stack.gradient for stack in self.stacks]
        if gradients:
            torch._foreach_zero_(gradients)


def rows_of(batch: Batch) -> int:
    """Return the number of examples in a batch."""
    return len(next(iter(batch.values())))


def _callbacks(state: TrainState) -> Sequence[StepCallback]:
    """Return the callbacks of a step in order: the task's, the method's, the average's."""
    averages = [] if state.average is None else [state.average]
    return [*state.task_callbacks, state.rules, *averages]


def _share(batch: Batch, accelerator: Accelerator) -> Batch:
    """Return this process's equal share of the global batch, in memory that a GPU can read."""
    count, index = accelerator.num_processes, accelerator.process_index
    rows = rows_of(batch)
    if rows % count:
        raise StudioError(f"a batch of {rows} cannot be split equally among {count} processes.")
    on_gpu = accelerator.device.type == "cuda"
    share = {name: tensor.chunk(count)[index] for name, tensor in batch.items()}
    return {name: one.pin_memory() if on_gpu else one for name, one in share.items()}


def _pieces(share: Batch, count: int) -> Iterator[tuple[int, Batch]]:
    """Yield equal micro-batches, each with the number of those that follow.

    The loss is a mean over examples, so the mean of the micro-batches' losses is the batch's.
    """
    rows = rows_of(share)
    assert rows % count == 0, f"a batch of {rows} cannot be split into {count} equal parts"
    cut = {name: tensor.chunk(count) for name, tensor in share.items()}
    for number in range(count):
        yield count - 1 - number, {name: pieces[number] for name, pieces in cut.items()}
