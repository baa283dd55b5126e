"""What a few-shot method is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nora_studio.options.part_settings import PartSettings
from nora_studio.tasks.fewshot.data import FewshotData
from nora_studio.tasks.fewshot.options import FewshotOptions
from nora_studio.trainer.task import Learner


class FewshotMethod(Protocol):
    """One way to adapt a CLIP to a few pictures of each class."""

    summary: str
    """One line for menus and help."""
    paper: str
    """arXiv identifier."""
    tuner: str
    """The method of adapters that it puts on the weights; "" if it does not."""
    trains: bool
    """Whether anything is trained at all."""

    def check(self, options: FewshotOptions, name: str) -> None:
        """Refuse options that do not fit, before a model loads.

        Raises:
            StudioError: one is such.
        """
        ...

    def part_settings(self, options: FewshotOptions, name: str) -> Mapping[str, PartSettings]:
        """Resolve rank, scale and rate of each trained part; none where nothing trains.

        Args:
            name: The method's in the run.

        Raises:
            StudioError: an option does not fit the method.
        """
        ...

    def learn(self, task: FewshotData, name: str) -> Learner:
        """Begin: everything is as before the first step.

        Args:
            name: The method's in the run.

        Raises:
            StudioError: it does not fit the model.
        """
        ...

    def read(self, task: FewshotData, folder: Path | None) -> Any:
        """Read a `Classifier`, in evaluation mode, as `Learner.write` left it in a folder.

        Raises:
            StudioError: the files are missing, damaged, or of another base.
        """
        ...
