"""What a task offers to the trainer: its data, its modules, what it measures and how it ends.

`lifecycle.run` takes any task from its command line to proven adapters; DreamBooth, CLIP few-shot
and commonsense questions differ in nothing but what stands in their `Task`.
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

from nora_studio.adapters.methods.step_rules import StepRules
from nora_studio.runs.runs import Run
from nora_studio.trainer.settings import TrainerSettings
from nora_studio.trainer.sharding import Sharding
from nora_studio.trainer.train_state import BatchSource, StepCallback, TrainState


@dataclass(frozen=True)
class Learner:
    """A method at work on a task: what is trained, what a step computes, how it is kept."""

    step: Any
    """A module whose forward takes a batch and returns the loss, the method's penalty included."""
    optimizer: Any
    """Its groups carry a "name"."""
    parameters: list[nn.Parameter]
    rules: StepRules
    """What the method does around each step."""
    write: Callable[[Path, int], None]
    """Writes what was learned, as of a step, into an existing folder."""
    load: Callable[[Path], None]
    """Sets it from such a folder, to the bit."""
    adapted: dict[str, nn.Module] = field(default_factory=dict)
    """The modules that carry adapters, by part; none where nothing is in a model's weights."""
    callbacks: Sequence[Callable[[TrainState], StepCallback]] = ()
    """What the task does around each step, made for the run that they serve."""


@dataclass(frozen=True)
class Proof:
    """What a saved adapter shows when it is read back."""

    problem: str | None
    """Why it is not done; None: it is."""
    line: str
    """What to tell of it, "{adapter}" for the adapter; after a problem, the whole error."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What its status says of it."""


class Task(ABC):
    """One kind of training; `lifecycle.run` calls its methods in the order in which they stand."""

    data = "photos"
    """What is trained on, in words."""
    rows = "images"
    """What a batch has rows of, as the log names their pace: "images_per_second"."""
    distributed = True
    """Whether several processes may share it."""
    settings: Any
    """What `resolve` gave; set by `lifecycle.run`."""
    sharding: Sharding | None = None
    """How the base is spread over the processes; set by `lifecycle.run`."""

    @abstractmethod
    def read_options(self) -> Any:
        """Read the command line's options, with everything filled in that depends on no file.

        Raises:
            StudioError: an option is out of its range, or does not go with another.
        """

    def around(self, options: Any) -> contextlib.AbstractContextManager[Any]:
        """Wrap the whole training in a block; it gives the options to train with."""
        return contextlib.nullcontext(options)

    def complete(self, options: Any) -> Any:
        """Options with what depends on the data filled in. On the main process first."""
        return options

    @abstractmethod
    def resolve(self, options: Any) -> Any:
        """Return the settings that the options come to: a frozen type in which nothing is open.

        Its field `trainer` holds the `TrainerSettings`. Loads no model.

        Args:
            options: As `read_options`, `around` and `complete` have left them.

        Raises:
            StudioError: an option does not fit the model or the data.
        """

    @property
    def trainer(self) -> TrainerSettings:
        """The trainer's share of the settings."""
        return self.settings.trainer

    @abstractmethod
    def savings(self) -> Sequence[str]:
        """Return the options that would save memory in this run, in words; one at least."""

    @abstractmethod
    def find_data(self, runs: dict[str, Run]) -> Mapping[str, str]:
        """Read what is trained on, before any model loads; most mistakes are here.

        Returns:
            A digest of everything that is trained on, by name.
        """

    @abstractmethod
    def prepare(self, dtype: torch.dtype, accelerator: Accelerator) -> None:
        """Load the frozen base, and whatever its batches are made of.

        Args:
            dtype: Of the base.
            accelerator: Whose device it goes to, and whose `print` tells of it.
        """

    @abstractmethod
    def batches(self) -> BatchSource:
        """Return the batches from the first on; called once for each group of `groups`."""

    def groups(self, runs: dict[str, Run]) -> list[list[str]]:
        """Return the methods that are trained as twins; one group after another."""
        return [list(runs)]

    @abstractmethod
    def build(self, method: str, run: Run, accelerator: Accelerator) -> Learner:
        """Put a method to work: everything is as before the first step.

        Raises:
            StudioError: it does not fit the model.
        """

    def check_data(self) -> None:
        """Look once more, just before the runs begin. On the main process.

        Raises:
            StudioError: what is trained on has changed since `find_data`.
        """
        return None

    def begin(self, runs: dict[str, Run]) -> None:
        """Write what a run's folder holds from the beginning. Called on the main process."""
        return None

    def start(self, states: list[TrainState], step: int) -> None:
        """Generate what is shown before the first step, or after the step of a resumed run."""
        return None

    def rehearse(
        self,
        states: list[TrainState],
        evaluate: Callable[[TrainState], dict[str, float]],
    ) -> int | None:
        """Measure instead of training; the exit status, or None to train."""
        return None

    def sample(self, state: TrainState, step: int) -> None:
        """Generate a run's pictures after a step. Called on every process."""
        return None

    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Measure the served weights; what the log is told by name. Called on every process."""
        return {}

    def show_last(self, state: TrainState, step: int) -> None:
        """Show what the last step came to, where an earlier one becomes the adapter."""
        return None

    @abstractmethod
    def outputs(self, state: TrainState, step: int) -> Any:
        """Return what the trained weights generate or say, for `finish` to compare."""

    @abstractmethod
    def finish(self, run: Run, method: str, outputs: Any, accelerator: Accelerator) -> Proof | None:
        """Read the saved adapter into a fresh base, and compare. None on other processes.

        Args:
            accelerator: The one that the run was trained with, of which nothing else is left.
        """
