"""Zero-shot: the frozen model and the classes' sentences, nothing trained."""

from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.options.part_settings import PartSettings
from nora_studio.tasks.fewshot.classifier import ClipClassifier
from nora_studio.tasks.fewshot.data import FewshotData
from nora_studio.tasks.fewshot.options import FewshotOptions
from nora_studio.trainer.task import Learner


class ZeroShot:
    """CLIP as it is (arXiv 2103.00020, section 3.1)."""

    summary, paper, tuner, trains = "Zero-shot: the model as it is", "2103.00020", "", False

    def check(self, options: FewshotOptions, name: str) -> None: ...

    def part_settings(self, options: FewshotOptions, name: str) -> dict[str, PartSettings]:
        return {}

    def learn(self, task: FewshotData, name: str) -> Learner:
        raise StudioError(f"{name} learns nothing; it is only tested.")

    def read(self, task: FewshotData, folder: Path | None) -> Any:
        return ClipClassifier(task, task.clip.model, False, False).eval()
