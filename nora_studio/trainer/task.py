"""The interface of a task to the trainer: its data, modules, measurements and verification.

`lifecycle.run` trains any task. DreamBooth, CLIP few-shot and commonsense questions differ only in
their `Task`.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from nora_studio.adapters.methods.step_rules import StepRules, StepTensors
from nora_studio.runs.runs import Run
from nora_studio.trainer.settings import TrainerSettings
from nora_studio.trainer.sharding import Sharding
from nora_studio.trainer.train_state import BatchSource, StepCallback, TrainState


@dataclass(frozen=True)
class Learner:
    """A method on a task: the trained parameters, the step's loss, and how they are saved."""

    step: nn.Module
    """A module whose forward takes a batch and returns the loss, the method's penalty included."""
    optimizer: Optimizer
    """The optimizer; each of its parameter groups has a "name"."""
    parameters: list[nn.Parameter]
    rules: StepRules
    """The method's callbacks before and after each step."""
    write: Callable[[Path, int], None]
    """Writes the trained weights, as of a step, into an existing folder."""
    load: Callable[[Path], None]
    """Loads them from such a folder, bit for bit."""
    adapted: dict[str, nn.Module] = field(default_factory=dict)
    """The modules with adapters, by part; empty if the method does not adapt a model's weights."""
    step_tensors: Callable[[], StepTensors] | None = None
    """Stacks the trained weights for what the layers share in each step; see `TrainState`."""
    eager: str | None = None
    """Why a CUDA graph of one step cannot replay the others; None: it can."""
    callbacks: Sequence[Callable[[TrainState], StepCallback]] = ()
    """Factories of the task's callbacks before and after each step, called with the run's state."""


@dataclass(frozen=True)
class Verification:
    """The result of verifying a saved adapter."""

    problem: str | None
    """Why the adapter is not verified; None if it is."""
    line: str
    """Message for the user, with "{adapter}" for the adapter's path; or the whole error."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Values for the run's status."""


class Task(ABC):
    """A kind of training; `lifecycle.run` calls its methods in the order of their definition."""

    data = "photos"
    """What the data is, in messages."""
    rows = "images"
    """What the rows of a batch are, for names in the log such as "images_per_second"."""
    distributed = True
    """Whether several processes may share it."""
    settings: Any
    """The result of `resolve`; set by `lifecycle.run`."""
    sharding: Sharding | None = None
    """How the base is sharded; set by `lifecycle.run`."""

    @abstractmethod
    def read_options(self) -> Any:
        """Read the options of the command line, with defaults that do not depend on files.

        Raises:
            StudioError: an option is out of range, or cannot be combined with another.
        """

    def around(self, options: Any) -> contextlib.AbstractContextManager[Any]:
        """Return a context manager around the training, which yields the options to use."""
        return contextlib.nullcontext(options)

    def complete(self, options: Any) -> Any:
        """Fill in options that depend on the data. Called on the main process first."""
        return options

    @abstractmethod
    def resolve(self, options: Any) -> Any:
        """Resolve the options into settings, a frozen type without defaults. Loads no model.

        Its field `trainer` holds the `TrainerSettings`.

        Args:
            options: The options after `read_options`, `around` and `complete`.

        Raises:
            StudioError: an option does not fit the model or the data.
        """

    @property
    def trainer(self) -> TrainerSettings:
        """The trainer's part of the settings."""
        return self.settings.trainer

    @abstractmethod
    def memory_saving_tips(self) -> Sequence[str]:
        """Return at least one option that would save memory in this run, in words."""

    @abstractmethod
    def read_data(self, runs: dict[str, Run]) -> Mapping[str, str]:
        """Read the data before any model loads, to find mistakes in it early.

        Returns:
            A digest of each item of the data, by name.
        """

    @abstractmethod
    def prepare(self, dtype: torch.dtype, accelerator: Accelerator) -> None:
        """Load the frozen base, and prepare the data for batches.

        Args:
            dtype: Dtype of the base.
            accelerator: Has the base's device, and a `print` for progress.
        """

    @abstractmethod
    def batches(self) -> BatchSource:
        """Return a source of batches at its start; called once for each group of `groups`."""

    def groups(self, runs: dict[str, Run]) -> list[list[str]]:
        """Return groups of methods that are trained as twins, one group after another."""
        return [list(runs)]

    @abstractmethod
    def build(self, method: str, run: Run, accelerator: Accelerator) -> Learner:
        """Build what trains a method, in the state before the first step.

        Raises:
            StudioError: the method's settings do not fit the model.
        """

    def check_data(self) -> None:
        """Check the data again just before the runs start. Called on the main process.

        Raises:
            StudioError: the data has changed since `read_data`.
        """
        return None

    def begin(self, runs: dict[str, Run]) -> None:
        """Write further files into new run folders. Called on the main process."""
        return None

    def start(self, states: list[TrainState], step: int) -> None:
        """Generate the previews of step 0, or those that a resumed run lacks."""
        return None

    def preflight(
        self,
        states: list[TrainState],
        evaluate: Callable[[TrainState], dict[str, float]],
    ) -> int | None:
        """Run the preflight, if requested, and return its exit status; None to train."""
        return None

    def sample(self, state: TrainState, step: int) -> None:
        """Generate a run's previews after a step. Called on every process."""
        return None

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Return measurements of the averaged weights by name, for the log."""
        return {}

    def show_last(self, state: TrainState, step: int) -> None:
        """Generate the previews of the last step if the adapter is of an earlier one."""
        return None

    @abstractmethod
    def outputs(self, state: TrainState, step: int) -> Any:
        """Return outputs of the averaged weights, which `finish` compares with."""

    @abstractmethod
    def finish(
        self, run: Run, method: str, outputs: Any, accelerator: Accelerator
    ) -> Verification | None:
        """Load the saved adapter into a fresh base, and compare its outputs.

        Args:
            outputs: The result of `outputs` for the trained weights.
            accelerator: The run's accelerator, whose own memory is freed already.

        Returns:
            The result on the main process; None on the others.
        """
