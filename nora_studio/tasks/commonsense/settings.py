"""Settings of a commonsense run: its options, resolved, without any default left."""

from dataclasses import dataclass
from typing import Literal

from nora_studio.options.part_settings import PartSettings
from nora_studio.options.part_settings import resolve as resolve_parts
from nora_studio.tasks.commonsense.options import PARTS, CommonsenseOptions
from nora_studio.tasks.commonsense.recommended import recommended
from nora_studio.trainer.settings import (
    TrainerSettings,
    keeping_settings,
    learning_settings,
    plan_of,
    tuning_settings,
)


@dataclass(frozen=True, kw_only=True)
class CommonsenseSettings:
    """All settings of a run."""

    trainer: TrainerSettings
    model: str
    bits: Literal[16, 8, 4]
    """Bits of the frozen base's weights."""
    gradient_checkpointing: bool
    targets: tuple[str, ...]
    """Suffixes of the adapted layers' names."""
    cutoff: int
    """Maximum tokens of a question with its answer."""
    packing: bool
    """Whether several questions share a row of `cutoff` tokens."""
    group_by_length: bool


def resolve(options: CommonsenseOptions) -> CommonsenseSettings:
    """Resolve a run's options, filled in by `with_recommended` and `with_steps`.

    Raises:
        StudioError: an option does not fit the run's methods.
    """
    return CommonsenseSettings(
        trainer=TrainerSettings(
            methods=options.methods,
            parts={method: part_settings(options, method) for method in options.methods},
            learning=learning_settings(options),
            tuning=tuning_settings(options, options.cache),
            plan=plan_of(options, options, options),
            keeping=keeping_settings(options, options),
        ),
        model=options.model,
        bits=options.base_bits,
        gradient_checkpointing=options.gradient_checkpointing,
        targets=options.targets,
        cutoff=options.cutoff,
        packing=options.packing,
        group_by_length=options.group_by_length,
    )


def part_settings(options: CommonsenseOptions, method: str) -> dict[str, PartSettings]:
    """Return a method's rank, scale and rate, from the options or recommended."""
    return resolve_parts(options, method, PARTS, recommended(method, options.model))
