"""The interface of a few-shot method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from nora_studio.options.part_settings import PartSettings
from nora_studio.tasks.fewshot.classifier import Classifier
from nora_studio.tasks.fewshot.data import FewshotData
from nora_studio.tasks.fewshot.options import FewshotOptions
from nora_studio.trainer.task import Learner


class FewshotMethod(Protocol):
    """A way to adapt a CLIP to a few images of each class."""

    summary: str
    """One line for menus and help."""
    paper: str
    """arXiv identifier."""
    tuner: str
    """The adapter method that it uses on the weights; "" for none."""
    trains: bool
    """Whether it trains anything."""

    def check(self, options: FewshotOptions, name: str) -> None:
        """Refuse options that do not fit the method, before a model loads.

        Raises:
            StudioError: an option does not fit.
        """
        ...

    def part_settings(self, options: FewshotOptions, name: str) -> Mapping[str, PartSettings]:
        """Resolve rank, scale and rate of each trained part; empty if nothing is trained.

        Args:
            name: The method's name in the run.

        Raises:
            StudioError: an option does not fit the method.
        """
        ...

    def learn(self, task: FewshotData, name: str) -> Learner:
        """Build what trains the method, in the state before the first step.

        Args:
            name: The method's name in the run.

        Raises:
            StudioError: the method's settings do not fit the model.
        """
        ...

    def read(self, task: FewshotData, folder: Path | None) -> Classifier:
        """Read a `Classifier` that `Learner.write` saved, in evaluation mode.

        Raises:
            StudioError: the files are missing, damaged, or of another base.
        """
        ...
