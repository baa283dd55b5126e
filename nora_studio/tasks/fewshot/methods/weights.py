"""Adapters on both encoders, with any method of the table of adapter methods."""

from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import override

from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.methods.table import METHODS
from nora_studio.options.part_settings import PartSettings, resolve
from nora_studio.sdxl.models import share_weights
from nora_studio.tasks.fewshot.attention import PROJECTIONS, TARGETS
from nora_studio.tasks.fewshot.classifier import ClipClassifier
from nora_studio.tasks.fewshot.clip import parts_of
from nora_studio.tasks.fewshot.data import FewshotData
from nora_studio.tasks.fewshot.methods.contract import FewshotMethod
from nora_studio.tasks.fewshot.options import PARTS, FewshotOptions
from nora_studio.tasks.fewshot.recommended import recommended
from nora_studio.trainer.build import adapt, learner
from nora_studio.trainer.task import Learner

TASK = "clip few-shot"


class WeightAdapter(FewshotMethod):
    """An adapter method on q, k, v of every block of both encoders, as in CLIP-LoRA."""

    trains = True

    def __init__(self, tuner: str, summary: str | None = None, paper: str | None = None) -> None:
        """Set the adapter method.

        Args:
            tuner: A name in the table of adapter methods.
            summary: None: the adapter method's.
            paper: None: the adapter method's.
        """
        self.tuner = tuner
        self.summary = summary or METHODS[tuner].summary
        self.paper = paper or METHODS[tuner].paper

    @override
    def check(self, options: FewshotOptions, name: str) -> None:
        self.part_settings(options, name)

    def part_settings(self, options: FewshotOptions, name: str) -> dict[str, PartSettings]:
        """Resolve rank, scale and rate of each trained encoder."""
        return resolve(options, name, PARTS, recommended(name, options.model), self.tuner)

    @override
    def learn(self, task: FewshotData, name: str) -> Learner:
        settings, sizes = task.settings, task.settings.trainer.parts[name]
        model: Any = share_weights(task.clip.model)
        targets = TARGETS if settings.targets == "qkvo" else PROJECTIONS
        adapted = adapt(
            settings.trainer,
            self.tuner,
            sizes,
            parts_of(task.clip.model),
            parts_of(model),
            lambda part, module: targets,
        )
        trains = ("vision" in sizes, "text" in sizes)
        card = {
            "model": task.clip.name,
            "trigger": "",
            "prompt": task.template,
            "resolution": task.clip.size,
            "task": TASK,
        }
        first_rate = max(values.learning_rate for values in sizes.values()) / 10
        step = ClipClassifier(task, model, *trains, rules=adapted.rules).train()
        return learner(settings.trainer, adapted, step, card, first_rate)

    @override
    def read(self, task: FewshotData, folder: Path | None) -> ClipClassifier:
        assert folder is not None
        model: Any = share_weights(task.clip.model)
        parts: dict[str, nn.Module] = parts_of(model)
        card = load_adapter(folder, parts)
        model.to(task.clip.device)
        adapted = card.fingerprints
        return ClipClassifier(task, model, "vision" in adapted, "text" in adapted).eval()
