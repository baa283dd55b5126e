"""What the training loop works on: runs in training, and the batches that they share."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nora_studio.adapters.methods.step_rules import StepRules
from nora_studio.runs.curves import Curve, LossPoint
from nora_studio.runs.runs import Run
from nora_studio.runs.trackers import RunTracker
from nora_studio.trainer.averages import WeightAverage

Batch = dict[str, Tensor]


class BatchSource(Protocol):
    """A source of training batches that can be saved and restored."""

    def next(self) -> Batch:
        """Return one global batch on the CPU, batch first in every tensor."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next batches depend on."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue exactly where `state` was taken."""
        ...


class StepCallback(Protocol):
    """What happens around each optimizer step, beside the step itself."""

    def before(self, step: int) -> None:
        """Run before the forward pass of a step, counted from 1."""
        ...

    def after(self, step: int) -> None:
        """Run after the optimizer's step, the gradients still there."""
        ...


@dataclass
class TrainState:
    """One run in training. Twins are states of one loop: same batches, own everything else."""

    label: str
    run: Run
    accelerator: Accelerator
    """Its own, so that one twin's gradient scaler never touches the other's."""
    model: nn.Module
    """Prepared; its forward takes a batch and returns the loss."""
    optimizer: Any
    schedule: Any
    parameters: list[nn.Parameter]
    write_adapter: Callable[[Path, int], None]
    """Writes the adapter as of a step into an existing folder."""
    load_adapter: Callable[[Path], None]
    """Sets the trained weights from a checkpoint folder."""
    rules: StepRules
    """What the method does around each step."""
    task_callbacks: list["StepCallback"] = field(default_factory=list)
    """What its task does around each step, before the method's rules."""
    keeps_best: bool = False
    """Whether the checkpoint of its lowest measured loss outlives the newer ones."""
    tracker: RunTracker | None = None
    """Hears what the log is told."""
    curve: Curve = field(default_factory=Curve)
    """Its measured losses so far; the main process's alone."""
    average: WeightAverage | None = None
    """Return the average that is served in place of the trained weights; None: they are served."""
    rows: str = "images"
    """What a batch has rows of, as the log names their pace: "images_per_second"."""
    adapted: Mapping[str, nn.Module] = field(default_factory=dict)
    """The modules that carry its adapter, by part; none where it is no adapter of weights."""
    first_step: dict[str, float] = field(default_factory=dict)
    """How far the first step moves a weight at most, by part; stands in the first log line."""
    loss_sum: Tensor = field(init=False)
    """Of the losses since the last log line."""
    logged_step: int = 0
    """The step of that line."""
    gradient_norm: Tensor = field(init=False)
    first_bad_step: Tensor = field(init=False)

    def __post_init__(self) -> None:
        device = self.accelerator.device
        self.loss_sum = torch.zeros((), device=device)
        self.gradient_norm = torch.zeros((), device=device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Put the weights that the run saves and is judged by into the module for a block."""
        return self.average.averaged() if self.average is not None else contextlib.nullcontext()

    @property
    def best(self) -> LossPoint | None:
        """The lowest measured loss among steps that have a checkpoint, where that is kept."""
        return self.curve.best(self.run.checkpoints()) if self.keeps_best else None

    def log(self, step: int, **values: Any) -> None:
        """Append one line to the run's log, and tell the tracker."""
        self.run.log(step, **values)
        if self.tracker is not None:
            self.tracker.log(step, values)

    @property
    def best_facts(self) -> dict[str, float]:
        """The best step kept, as a status names it; empty where there is none."""
        best = self.best
        return {} if best is None else {"best_step": best.step, "best_loss": best.loss}

    def set_status(self, state: str, step: int, steps: int, **values: Any) -> None:
        """Replace the run's status (`Run.set_status`); it names the best step kept."""
        self.run.set_status(state, step, steps, **self.best_facts, **values)
