"""CLIP few-shot as a task: a few images of each class, an adapted CLIP, top-1 accuracy."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from typing_extensions import override

from nora_studio.options.options_file import parse
from nora_studio.runs.runs import Run
from nora_studio.tasks.fewshot.clip import load_clip
from nora_studio.tasks.fewshot.data import FewshotData
from nora_studio.tasks.fewshot.datasets import find_dataset, record_of
from nora_studio.tasks.fewshot.merging import check_mergeable, save_merged
from nora_studio.tasks.fewshot.methods import METHODS
from nora_studio.tasks.fewshot.options import FewshotOptions
from nora_studio.tasks.fewshot.pictures import EvaluationSet, ShotBatches
from nora_studio.tasks.fewshot.recommended import with_recommended
from nora_studio.tasks.fewshot.scores import (
    ZeroShotScores,
    evaluate_classifier,
    write_scores,
    write_shots,
    zero_shot,
)
from nora_studio.tasks.fewshot.settings import FewshotSettings, resolve
from nora_studio.tasks.fewshot.shots import sample_shots
from nora_studio.trainer.acceleration import MIXED, prepare_accelerator
from nora_studio.trainer.task import Learner, Task, Verification
from nora_studio.trainer.train_state import BatchSource, StepCallback, TrainState

ZERO_SHOT = "zero-shot"
SEED_STRIDE = 1_000_003
TOLERANCE = 0.5
"""Largest difference of logits, which are cosines times 100, that rounding may cause on a GPU."""


@dataclass(frozen=True)
class TrainedResults:
    """Results of the trained weights."""

    accuracy: float
    validation: float
    logits: Tensor
    """Logits of the first test batch."""
    facts: dict[str, Any]
    """Facts of the training for `scores.json`."""


class SeedDropout(StepCallback):
    """A callback that seeds torch before each step, so that dropout does not depend on twins."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def before_step(self, step: int) -> None:
        torch.manual_seed(self.seed * SEED_STRIDE + step)

    @override
    def after_step(self, step: int) -> None: ...


class FewshotTask(Task):
    """Adapt a CLIP to a few images of each class."""

    distributed = False
    settings: FewshotSettings
    known: FewshotData
    """The shots, the classes and the frozen model."""
    before: ZeroShotScores

    @override
    def read_options(self) -> FewshotOptions:
        known = {name: method.tuner for name, method in METHODS.items()}
        options = with_recommended(parse(FewshotOptions), known)
        for name in options.methods:
            METHODS[name].check(options, name)
        if options.merged:
            check_mergeable(options.model)
        return options

    @override
    def resolve(self, options: FewshotOptions) -> FewshotSettings:
        self.dataset = find_dataset(options.dataset, options.data_dir)
        parts = {name: METHODS[name].part_settings(options, name) for name in options.methods}
        return resolve(options, parts, self.dataset)

    @override
    def memory_saving_tips(self) -> Sequence[str]:
        is_shared = self.settings.twins and len(self.trainer.methods) > 1
        return [
            *(["--no-twins, which trains one method after the other"] if is_shared else []),
            "a smaller --batch-size or a larger --accumulate",
        ]

    @override
    def read_data(self, runs: dict[str, Run]) -> Mapping[str, str]:
        settings, splits = self.settings, self.dataset.splits
        seed = self.trainer.learning.seed
        self.sampled = sample_shots(splits["train"], splits["val"], settings.shots, seed)
        shots, validation = self.sampled
        return record_of(shots, "train") | record_of(validation, "val")

    @override
    def prepare(self, dtype: torch.dtype, accelerator: Accelerator) -> None:
        settings, dataset, device = self.settings, self.dataset, accelerator.device
        note = dataset.note or "with its own splits"
        print(f"{dataset.name}: {len(dataset.classes)} classes, {note}")
        print(f"Loading {settings.model} ({dtype}, {device})", flush=True)
        clip = load_clip(settings.model, dtype, device)
        self.known = FewshotData.of(settings, clip, dataset, *self.sampled)
        self.before = zero_shot(self.known, prepare_accelerator(MIXED[dtype]))
        pictures = len(self.known.test.pictures)
        print(f"zero-shot: {self.before.accuracy:.1%} of {pictures:,} test images")

    @override
    def batches(self) -> BatchSource:
        learning = self.trainer.learning
        shots, augment = self.known.shots, self.settings.augment
        return ShotBatches(shots, learning.batch_size, learning.seed, augment)

    @override
    def groups(self, runs: dict[str, Run]) -> list[list[str]]:
        trained = [name for name in runs if METHODS[name].trains]
        groups = [trained] if self.settings.twins else [[name] for name in trained]
        return [group for group in groups if group]

    @override
    def build(self, method: str, run: Run, accelerator: Accelerator) -> Learner:
        seed = self.trainer.learning.seed
        own = METHODS[method].learn(self.known, method)
        return replace(own, callbacks=[lambda state: SeedDropout(seed)])

    @override
    def begin(self, runs: dict[str, Run]) -> None:
        for run in runs.values():
            write_shots(run.folder, self.known, *self.sampled)
        if ZERO_SHOT in runs:
            run, before = runs[ZERO_SHOT], self.before
            values = {"accuracy": before.accuracy, "validation": before.validation, "parameters": 0}
            write_scores(run, self.known, ZERO_SHOT, before, **values)
            run.set_status("finished", 0, 0, accuracy=round(before.accuracy, 5))

    @override
    def outputs(self, state: TrainState, step: int) -> TrainedResults:
        accelerator = state.accelerator
        classifier = accelerator.unwrap_model(state.model)
        with state.averaged():
            accuracy, logits = evaluate_classifier(classifier, self.known.test, accelerator)
            validation, _ = evaluate_classifier(classifier, self.known.validation, accelerator)
        log = state.run.read_log()
        pace = [row["seconds_per_step"] for row in log if "seconds_per_step" in row]
        groups = state.optimizer.param_groups
        facts = {
            "parameters": sum(parameter.numel() for parameter in state.parameters),
            "steps": self.trainer.learning.steps,
            "batch_size": self.trainer.learning.batch_size,
            "seconds_per_step": round(statistics.median(pace), 5) if pace else None,
            "learning_rate": {group["name"]: group["initial_lr"] for group in groups},
        }
        return TrainedResults(accuracy, validation, logits, facts)

    def finish(
        self, run: Run, method: str, outputs: TrainedResults, accelerator: Accelerator
    ) -> Verification:
        """Check that the saved adapter gives the same logits, and write the scores."""
        known, found = self.known, outputs
        again = METHODS[method].read(known, run.adapter)
        test = known.test
        first = EvaluationSet(
            test.pictures[: len(found.logits)], test.preprocess, len(found.logits)
        )
        apart = (
            (evaluate_classifier(again, first, accelerator)[1] - found.logits).abs().max().item()
        )
        # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
        if apart > (0.0 if accelerator.device.type == "cpu" else TOLERANCE):
            problem = f"the saved adapter's logits differ from the trained ones by {apart:.3g}"
            return Verification(problem, f"{run.adapter}: {problem}. Train again.")
        scores = {"accuracy": found.accuracy, "validation": found.validation, **found.facts}
        write_scores(run, known, method, self.before, **scores)
        if self.settings.merged:
            save_merged(known, again, run.folder / "merged")
        line = (
            f"{run.folder}: {found.accuracy:.1%} of {len(test.pictures):,} test images "
            f"(zero-shot {self.before.accuracy:.1%}); verified from its file."
        )
        return Verification(None, line, {"accuracy": round(found.accuracy, 5)})
