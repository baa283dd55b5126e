"""Settings of a few-shot run: its options, resolved for its data, without any default left."""

from collections.abc import Mapping
from dataclasses import dataclass

from nora_studio.options.part_settings import PartSettings
from nora_studio.tasks.fewshot.datasets import Dataset
from nora_studio.tasks.fewshot.options import FewshotOptions
from nora_studio.tasks.fewshot.recommended import final_rate_of
from nora_studio.trainer.settings import (
    TrainerSettings,
    keeping_settings,
    learning_settings,
    plan_of,
    tuning_settings,
)


@dataclass(frozen=True, kw_only=True)
class FewshotSettings:
    """All settings of a run."""

    trainer: TrainerSettings
    model: str
    dataset: str
    """The value of --dataset."""
    shots: int
    """Training images of each class."""
    template: str
    """Sentence of a class, with {} for its name."""
    augment: bool
    test_pictures: int
    """Number of test images, evenly spaced over the split."""
    targets: str
    """Attention layers that are adapted: "qkv" or "qkvo"."""
    logit_scale: str
    """Factor of the cosines: "protocol" for 100, "model" for the model's own scale."""
    twins: bool
    """Whether several methods share one loop."""
    merged: bool
    """Whether the merged model is written too."""


def resolve(
    options: FewshotOptions, parts: Mapping[str, Mapping[str, PartSettings]], dataset: Dataset
) -> FewshotSettings:
    """Resolve a run's options.

    Args:
        options: Options filled in by `with_recommended`.
        parts: Method -> part of the model -> rank, scale and rate.
        dataset: The set that the options name.
    """
    test, limit, template = len(dataset.splits["test"]), options.test_limit, options.template
    return FewshotSettings(
        trainer=TrainerSettings(
            methods=options.methods,
            parts=parts,
            learning=learning_settings(options, final_rate_of(options)),
            tuning=tuning_settings(options),
            plan=plan_of(options, options),
            keeping=keeping_settings(options),
        ),
        model=options.model,
        dataset=options.dataset,
        shots=options.shots,
        template=dataset.template if template is None else template,
        augment=options.augment,
        test_pictures=test if limit is None else min(limit, test),
        targets=options.targets,
        logit_scale=options.logit_scale,
        twins=options.twins,
        merged=options.merged,
    )
