"""Zero-shot: the frozen model and the classes' sentences, nothing trained."""

from pathlib import Path

from typing_extensions import override

from nora_studio.errors import StudioError
from nora_studio.options.part_settings import PartSettings
from nora_studio.tasks.fewshot.classifier import ClipClassifier
from nora_studio.tasks.fewshot.data import FewshotData
from nora_studio.tasks.fewshot.methods.contract import FewshotMethod
from nora_studio.tasks.fewshot.options import FewshotOptions
from nora_studio.trainer.task import Learner


class ZeroShot(FewshotMethod):
    """CLIP without training (arXiv 2103.00020, section 3.1)."""

    summary, paper, tuner, trains = "Zero-shot: the model as it is", "2103.00020", "", False

    @override
    def check(self, options: FewshotOptions, name: str) -> None: ...

    @override
    def part_settings(self, options: FewshotOptions, name: str) -> dict[str, PartSettings]:
        return {}

    @override
    def learn(self, task: FewshotData, name: str) -> Learner:
        raise StudioError(f"{name} is not trained, only tested. Choose another method to train.")

    @override
    def read(self, task: FewshotData, folder: Path | None) -> ClipClassifier:
        return ClipClassifier(task, task.clip.model, False, False).eval()
