"""A few-shot run's settings: what its options come to on its data, with nothing left open."""

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
    """A whole run's."""

    trainer: TrainerSettings
    model: str
    dataset: str
    """As --dataset names it."""
    shots: int
    """Training pictures of each class."""
    template: str
    """A class in a sentence, {} for its name."""
    augment: bool
    test_pictures: int
    """How many are tested on, spread evenly over the split."""
    targets: str
    """"qkv" or "qkvo": the attention layers that are adapted."""
    logit_scale: str
    """"protocol": cosines are multiplied by 100; "model": by the model's own scale."""
    twins: bool
    """Whether several methods share one loop."""
    merged: bool
    """Whether the adapted model is written too."""


def resolve(
    options: FewshotOptions, parts: Mapping[str, Mapping[str, PartSettings]], dataset: Dataset
) -> FewshotSettings:
    """Resolve a run's options.

    Args:
        options: As `with_recommended` returns them.
        parts: Method -> part of the model -> rank, scale and rate.
        dataset: The one that the options name.
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
