"""What a few-shot method is asked for, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from nora_studio.adapters.methods.steps import StepRules
from nora_studio.tasks.fewshot.settings import FewshotOptions
from nora_studio.tasks.fewshot.task import FewshotTask


@dataclass(frozen=True)
class Learner:
    """A method at work on a task: what is trained, what a step computes, how it is kept."""

    step: Any
    """A module whose forward takes a batch of `ShotDraws` and returns the loss; a `Classifier`."""
    optimizer: Any
    """Its groups carry a "name"."""
    parameters: list[nn.Parameter]
    rules: StepRules
    write: Callable[[Path, int], None]
    """Writes what was learned, as of a step, into an existing folder."""
    load: Callable[[Path], None]
    """Sets it from such a folder, to the bit."""
    adapted: dict[str, nn.Module] = field(default_factory=dict)
    """The encoders that carry adapters, by part; none where nothing is in their weights."""


class FewshotMethod(Protocol):
    """One way to adapt a CLIP to a few pictures of each class."""

    @property
    def summary(self) -> str:
        """One line for menus and help."""
        ...

    @property
    def paper(self) -> str:
        """arXiv identifier."""
        ...

    @property
    def tuner(self) -> str:
        """The method of adapters that it puts on the weights; "" if it does not."""
        ...

    @property
    def trains(self) -> bool:
        """Whether anything is trained at all."""
        ...

    def check(self, options: FewshotOptions, name: str) -> None:
        """Refuse options that do not fit, before a model loads.

        Raises:
            StudioError: one is such.
        """
        ...

    def learn(self, task: FewshotTask, name: str) -> Learner:
        """Begin: everything is as before the first step.

        Args:
            name: The method's in the run.

        Raises:
            StudioError: it does not fit the model.
        """
        ...

    def read(self, task: FewshotTask, folder: Path | None) -> Any:
        """A `Classifier` of its own, in evaluation mode, as `Learner.write` left it in a folder.

        Raises:
            StudioError: the files are missing, damaged, or of another base.
        """
        ...
