"""The state of runs in training, and the interfaces of batches and callbacks."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nora_studio.adapters.methods.step_rules import StepRules, StepTensors
from nora_studio.runs.curves import Curve, LossPoint
from nora_studio.runs.runs import Run
from nora_studio.runs.trackers import RunTracker
from nora_studio.trainer.averages import WeightAverage

Batch = dict[str, Tensor]


class BatchSource(Protocol):
    """A source of training batches whose position can be saved and restored."""

    def next(self) -> Batch:
        """Return one global batch on the CPU, batch first in every tensor."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the state that determines the next batches."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue exactly from a state."""
        ...


class StepCallback(Protocol):
    """Callbacks before and after each optimizer step."""

    def before_step(self, step: int) -> None:
        """Run before the forward pass of a step, counted from 1."""
        ...

    def after_step(self, step: int) -> None:
        """Run after the optimizer's step, before the gradients are cleared."""
        ...


@dataclass
class TrainState:
    """State of one run in training. Twins share the loop and its batches, and nothing else."""

    label: str
    run: Run
    accelerator: Accelerator
    """Not shared, so that twins have separate gradient scalers."""
    model: nn.Module
    """The step as prepared by Accelerate; its forward takes a batch and returns the loss."""
    optimizer: Optimizer
    schedule: LambdaLR
    parameters: list[nn.Parameter]
    write_adapter: Callable[[Path, int], None]
    """Writes the adapter as of a step into an existing folder."""
    load_adapter: Callable[[Path], None]
    """Sets the trained weights from a checkpoint folder."""
    rules: StepRules
    """The method's callbacks before and after each step."""
    step_tensors: Callable[[], StepTensors] | None = None
    """Stacks the trained weights, as they are by then, for what the layers share in each step."""
    eager: str | None = None
    """Why a CUDA graph of one step cannot replay the others; None: it can."""
    task_callbacks: list["StepCallback"] = field(default_factory=list)
    """The task's callbacks, called before the method's."""
    keeps_best: bool = False
    """Whether the checkpoint with the lowest measured loss is kept when newer ones are saved."""
    tracker: RunTracker | None = None
    """Tracker that gets the values of the log."""
    curve: Curve = field(default_factory=Curve)
    """Losses measured so far; only on the main process."""
    average: WeightAverage | None = None
    """The average that is evaluated and saved; None to use the trained weights."""
    rows: str = "images"
    """What the rows of a batch are, for names in the log such as "images_per_second"."""
    adapted: Mapping[str, nn.Module] = field(default_factory=dict)
    """The modules with the adapter, by part; empty if the method does not adapt weights."""
    first_step: dict[str, float] = field(default_factory=dict)
    """Largest change of a weight in the first step, by part; logged in the first line."""
    loss_sum: Tensor = field(init=False)
    """Sum of the losses since the last log line."""
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
        """Put the average into the module for a block, if the run has one."""
        return self.average.averaged() if self.average is not None else contextlib.nullcontext()

    @property
    def best(self) -> LossPoint | None:
        """The lowest measured loss of a step with a checkpoint; None unless `keeps_best`."""
        return self.curve.best(self.run.checkpoints()) if self.keeps_best else None

    def log(self, step: int, **values: object) -> None:
        """Append one line to the run's log, and log it to the tracker."""
        self.run.log(step, **values)
        if self.tracker is not None:
            self.tracker.log(step, values)

    @property
    def best_facts(self) -> dict[str, float]:
        """Step and loss of `best`, by their names in a status; empty if there is none."""
        best = self.best
        return {} if best is None else {"best_step": best.step, "best_loss": best.loss}

    def set_status(self, state: str, step: int, steps: int, **values: object) -> None:
        """Replace the run's status (`Run.set_status`), with `best_facts` included."""
        self.run.set_status(state, step, steps, **self.best_facts, **values)
