"""From a method and a task to a trainee, and from its last step to scores that a file proves."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from nora_studio import __version__
from nora_studio.errors import StudioError
from nora_studio.runs.atomic import write_text
from nora_studio.runs.runs import Run
from nora_studio.tasks.fewshot.merging import save_merged
from nora_studio.tasks.fewshot.methods import METHODS
from nora_studio.tasks.fewshot.pictures import Exam
from nora_studio.tasks.fewshot.recommended import final_rate_of
from nora_studio.tasks.fewshot.task import FewshotTask
from nora_studio.trainer.build import average_of, prepared, schedule_of
from nora_studio.trainer.trainee import Trainee

SCORES = "scores.json"
SEED_STRIDE = 1_000_003
TOLERANCE = 0.5
"""Logits may differ by so much on a GPU, where they are cosines times a hundred."""


def build_trainee(task: FewshotTask, method: str, run: Run, accelerator: Accelerator) -> Trainee:
    """One method at work on the task, with its schedule over the run.

    Raises:
        StudioError: a rank does not fit the model.
    """
    options = task.options
    learner = METHODS[method].learn(task, method)
    schedule = schedule_of(options, learner.optimizer, final_rate_of(options))
    model, optimizer = prepared(accelerator, learner.step, learner.optimizer)
    return Trainee(
        label=method,
        run=run,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        parameters=learner.parameters,
        write_adapter=learner.write,
        load_adapter=learner.load,
        rules=learner.rules,
        average=average_of(options, learner.parameters, optimizer),
        adapted=learner.adapted,
        # Dropout then depends on the step alone: not on which twins are trained beside it.
        before_step=lambda _, step: torch.manual_seed(options.seed * SEED_STRIDE + step),
    )


@torch.no_grad()
def tested(classifier: Any, exam: Exam, accelerator: Accelerator) -> tuple[float, Tensor]:
    """Top-1 accuracy on labelled pictures, and the logits of the first batch, on the CPU."""
    right = torch.zeros((), dtype=torch.int64, device=accelerator.device)
    first: Tensor | None = None
    was_training = classifier.training
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    classifier.eval()
    for parameter in trained:  # Torch multiplies weights that want a gradient in another way.
        parameter.requires_grad_(False)
    try:
        with accelerator.autocast():
            classes = classifier.class_features()
            for pixels, labels in exam.batches():
                logits = classifier.logits(pixels.to(accelerator.device), classes)
                right += (logits.argmax(dim=-1) == labels.to(logits.device)).sum()
                first = logits.float().cpu() if first is None else first
    finally:
        classifier.train(was_training)
        for parameter in trained:
            parameter.requires_grad_(True)
    assert first is not None, "an exam has at least one picture"
    return right.item() / len(exam.pictures), first


@dataclass(frozen=True)
class ZeroShotScores:
    """What the model could do before."""

    accuracy: float
    validation: float


def zero_shot(task: FewshotTask, accelerator: Accelerator) -> ZeroShotScores:
    """Test the frozen model with the classes' sentences."""
    bare = METHODS["zero-shot"].read(task, None)
    return ZeroShotScores(
        accuracy=tested(bare, task.test, accelerator)[0],
        validation=tested(bare, task.validation, accelerator)[0],
    )


def write_scores(
    run: Run, task: FewshotTask, method: str, before: ZeroShotScores, **values: Any
) -> None:
    """Write `scores.json`: accuracies are shares of the pictures, 0 to 1."""
    options = task.options
    scores = {
        "task": "clip few-shot",
        "version": __version__,
        "model": options.model,
        "dataset": options.dataset,
        "method": method,
        "shots": options.shots,
        "seed": options.seed,
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


def finish(task: FewshotTask, trainee: Trainee, before: ZeroShotScores) -> str:
    """Test what was trained, save it, and prove the file: read back, it answers the same.

    Returns:
        One line that says where it is and how good.

    Raises:
        StudioError: the file answers otherwise; it is kept for inspection, the run marked failed.
    """
    run, steps, options = trainee.run, task.options.steps or 0, task.options
    classifier = trainee.accelerator.unwrap_model(trainee.model)
    with trainee.served():
        accuracy, logits = tested(classifier, task.test, trainee.accelerator)
        validation, _ = tested(classifier, task.validation, trainee.accelerator)
        with run.saving_adapter() as fresh:
            trainee.write_adapter(fresh, steps)
    again = METHODS[trainee.label].read(task, run.adapter)
    first = Exam(task.test.pictures[: len(logits)], task.test.preprocess, len(logits))
    apart = (tested(again, first, trainee.accelerator)[1] - logits).abs().max().item()
    # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
    if apart > (0.0 if task.clip.device.type == "cpu" else TOLERANCE):
        problem = f"the saved adapter answers otherwise than the trained one (off by {apart:.3g})"
        run.set_status("failed", steps, steps, error=problem)
        raise StudioError(f"{run.adapter}: not done: {problem}. Train again.")
    pace = [row["seconds_per_step"] for row in run.read_log() if "seconds_per_step" in row]
    write_scores(
        run,
        task,
        trainee.label,
        before,
        accuracy=accuracy,
        validation=validation,
        parameters=sum(parameter.numel() for parameter in trainee.parameters),
        steps=steps,
        batch_size=options.batch_size,
        seconds_per_step=round(statistics.median(pace), 5) if pace else None,
        learning_rate={group["name"]: group["initial_lr"] for group in _groups(trainee)},
    )
    if options.merged:
        save_merged(task, again, run.folder / "merged")
    run.set_status("finished", steps, steps, accuracy=round(accuracy, 5))
    return (
        f"{run.folder}: {accuracy:.1%} of {len(task.test.pictures):,} test pictures "
        f"(zero-shot {before.accuracy:.1%}); proven by its file."
    )


def _groups(trainee: Trainee) -> list[dict[str, Any]]:
    return trainee.optimizer.param_groups


def write_shots(folder: Path, task: FewshotTask, train: list, validation: list) -> None:
    """Write `shots.json`: the classes, and which pictures were drawn for this run."""
    drawn = {
        "classes": list(task.classes),
        "template": task.template,
        "train": [[picture.name, label] for picture, label in train],
        "val": [[picture.name, label] for picture, label in validation],
    }
    write_text(folder / "shots.json", json.dumps(drawn, indent=1) + "\n")
