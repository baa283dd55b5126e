"""Test a classifier, and write the results and the shots: `scores.json`, `shots.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from nora_studio import __version__
from nora_studio.runs.atomic import write_text
from nora_studio.runs.runs import Run
from nora_studio.tasks.fewshot.data import FewshotData
from nora_studio.tasks.fewshot.methods import METHODS
from nora_studio.tasks.fewshot.pictures import EvaluationSet

SCORES = "scores.json"


@torch.no_grad()
def evaluate_classifier(
    classifier: Any, images: EvaluationSet, accelerator: Accelerator
) -> tuple[float, Tensor]:
    """Return the top-1 accuracy on labelled images, and the first batch's logits on the CPU."""
    right = torch.zeros((), dtype=torch.int64, device=accelerator.device)
    first: Tensor | None = None
    was_training = classifier.training
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    classifier.eval()
    for parameter in trained:  # Torch multiplies weights that require a gradient differently.
        parameter.requires_grad_(False)
    try:
        with accelerator.autocast():
            classes = classifier.class_features()
            for pixels, labels in images.batches():
                logits = classifier.logits(pixels.to(accelerator.device), classes)
                right += (logits.argmax(dim=-1) == labels.to(logits.device)).sum()
                first = logits.float().cpu() if first is None else first
    finally:
        classifier.train(was_training)
        for parameter in trained:
            parameter.requires_grad_(True)
    assert first is not None, "there is at least one image"
    return right.item() / len(images.pictures), first


@dataclass(frozen=True)
class ZeroShotScores:
    """Accuracies of the model without training, 0 to 1."""

    accuracy: float
    validation: float


def zero_shot(task: FewshotData, accelerator: Accelerator) -> ZeroShotScores:
    """Test the frozen model with the classes' sentences."""
    bare = METHODS["zero-shot"].read(task, None)
    return ZeroShotScores(
        accuracy=evaluate_classifier(bare, task.test, accelerator)[0],
        validation=evaluate_classifier(bare, task.validation, accelerator)[0],
    )


def write_scores(
    run: Run, task: FewshotData, method: str, before: ZeroShotScores, **values: Any
) -> None:
    """Write `scores.json`; accuracies are 0 to 1."""
    settings = task.settings
    scores = {
        "task": "clip few-shot",
        "version": __version__,
        "model": settings.model,
        "dataset": settings.dataset,
        "method": method,
        "shots": settings.shots,
        "seed": settings.trainer.learning.seed,
        **values,
        "zero_shot": before.accuracy,
        "zero_shot_validation": before.validation,
        "chance": 1 / len(task.classes),
        "classes": len(task.classes),
        "test_pictures": len(task.test.pictures),
        "device": _device_name(task.clip.device),
        "precision": str(task.clip.dtype).removeprefix("torch."),
    }
    write_text(run.folder / SCORES, json.dumps(scores, indent=1) + "\n", durable=True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def write_shots(folder: Path, task: FewshotData, train: list, validation: list) -> None:
    """Write `shots.json`: the classes, and the images sampled for this run."""
    record = {
        "classes": list(task.classes),
        "template": task.template,
        "train": [[picture.name, label] for picture, label in train],
        "val": [[picture.name, label] for picture, label in validation],
    }
    write_text(folder / "shots.json", json.dumps(record, indent=1) + "\n")
