"""Where to start with each few-shot method: rank, scale, and learning rates to choose from.

For real CLIP models: CLIP-LoRA's from its paper (arXiv 2405.18541), NoRA's rates set to move the
weights as far as that does, the others on CLIP-LoRA's rank and scale. For the embedded model, a
thousandth of the size and trained for a few hundred steps: three rates around what such small
adapters train with, the middle one first; `evaluation/table2.py` tries them on validation pictures,
for every method alike.
"""

import dataclasses
import math
from dataclasses import dataclass

from nora_studio.errors import StudioError
from nora_studio.options.defaults import check_methods, check_run_name
from nora_studio.options.groups.adapter import check_adapter_options
from nora_studio.options.groups.checks import (
    check_above_zero,
    check_not_negative,
    check_option,
    filled,
)
from nora_studio.options.groups.learning import check_learning_options, check_resolved
from nora_studio.options.groups.watching import check_keeping_options
from nora_studio.tasks.fewshot.options import FewshotOptions

_STEPS_PER_SHOT = {"clip": 500, "mini": 40}
_BATCH = 32
FINAL_RATE = 1e-6


@dataclass(frozen=True)
class Recommendation:
    """What a method trains with where nothing else is asked for."""

    rank: int
    """As the table of methods counts it."""
    rates: tuple[float, ...]
    """Learning rates worth trying on validation pictures; the first where none are tried."""
    alpha: float | None = None
    """The scale is alpha / rank, and alpha / sqrt(rank) for clip-lora. None: the usual one."""
    outer_rank: int | None = None
    """NoRA alone."""
    source: str = "starting point"
    """Where the numbers come from."""

    def learning_rate(self, part: str) -> float:
        """Return the rate, which is the same in both encoders."""
        return self.rates[0]


# CLIP-LoRA multiplies by alpha / sqrt(rank); for kin that divide by the rank this is the same.
_AS_CLIP_LORA = math.sqrt(2)
_PUBLISHED = (2e-4,)
# The authors' runs have 1e-2, 5e-3 and 1e-3, but their code multiplies the update by 1/614 and this
# one by 1. Adam's steps do not feel a scale, so here the same rates move the weights 614 times as
# far: theirs are 1.6e-5 and less. Measured by the first step on the shapes of ViT-B/16's q, k, v
# (768 and 512 wide, entries of variance 1 / width, singular values falling as i^-0.3 to i^-0.7), in
# shares of the largest singular value: CLIP-LoRA's 2e-4 moves a weight by 0.02% to 0.07%, NoRA's
# 1e-2 by 5% to 13%, and 5e-5 by 0.02% to 0.06%.
_NORA = (5e-5, 1e-4, 2e-5)

_CLIP = {
    "clip-lora": Recommendation(2, _PUBLISHED, 1.0, source="paper"),
    "lora+": Recommendation(2, _PUBLISHED, _AS_CLIP_LORA),
    "adalora": Recommendation(2, (1e-3, 2e-4), _AS_CLIP_LORA),
    "dylora": Recommendation(2, _PUBLISHED, _AS_CLIP_LORA),
    "lora-fa": Recommendation(2, _PUBLISHED, _AS_CLIP_LORA),
    "vera": Recommendation(256, (4e-3, 1e-3)),
    "nora": Recommendation(8, _NORA, outer_rank=64, source="first step as CLIP-LoRA's"),
    "clip-adapter": Recommendation(4, (1e-3,), source="paper, ratio 4"),
}
_EMBEDDED = {
    "clip-lora": Recommendation(2, (1e-2, 3e-3, 3e-2), 1.0),
    "lora+": Recommendation(2, (3e-3, 1e-3, 1e-2), _AS_CLIP_LORA),
    "adalora": Recommendation(2, (2e-2, 6e-3, 6e-2), _AS_CLIP_LORA),
    "dylora": Recommendation(2, (1e-2, 3e-3, 3e-2), _AS_CLIP_LORA),
    "lora-fa": Recommendation(2, (1e-2, 3e-3, 3e-2), _AS_CLIP_LORA),
    "vera": Recommendation(64, (3e-2, 1e-2, 1e-1)),
    "nora": Recommendation(8, (1e-2, 3e-3, 3e-2), outer_rank=32),
    "clip-adapter": Recommendation(4, (3e-3, 1e-3, 1e-2)),
}


def recommended(method: str, model: str) -> Recommendation:
    """Return the recommendation for a method that trains.

    Args:
        method: A name in the few-shot table.
        model: As `--model` takes it.
    """
    return (_EMBEDDED if model == "embedded" else _CLIP)[method]


def final_rate_of(options: FewshotOptions) -> float:
    """Where the cosine ends; other schedules have ends of their own."""
    rate = FINAL_RATE if options.final_rate is None else options.final_rate
    return rate if options.schedule == "cosine" else 0.0


def with_recommended(options: FewshotOptions, known: dict[str, str]) -> FewshotOptions:
    """Fill in the steps and the batch that suit the model, and check what can be checked early.

    Args:
        known: The few-shot methods, each with the method of adapters that it is; "" for others.

    Raises:
        StudioError: a value is out of its range, or a method is unknown.
    """
    family = "mini" if options.model == "embedded" else "clip"
    check_learning_options(options)
    check_adapter_options(options)
    check_keeping_options(options)
    check_above_zero(options, ("shots", "steps_per_shot", "test_limit"))
    if options.final_rate is not None:
        check_not_negative(options, ("final_rate",))
        cosine = options.schedule in (None, "cosine") and options.optimizer != "schedule-free"
        check_option(cosine, "final_rate", "a cosine to end there", options.schedule)
    if options.template is not None:
        check_option("{}" in options.template, "template", "{} for the class", options.template)
    if options.steps is not None and options.steps_per_shot is not None:
        raise StudioError("--steps-per-shot: --steps says how many already. Leave one out.")
    methods = options.methods
    check_option(bool(methods), "method", "at least one method", options.method)
    check_option(len(set(methods)) == len(methods), "method", "each once", options.method)
    for method in methods:
        check_option(method in known, "method", f"one of {', '.join(known)}", method)
    check_run_name(options, options.run_name, "dataset")
    tuners = [known[method] for method in methods if known[method]]
    if tuners:
        # The table's checks, in its own words for the methods; dropout is every tuner's here.
        check_methods(dataclasses.replace(options, method=",".join(dict.fromkeys(tuners))))
    per_shot = options.steps_per_shot or _STEPS_PER_SHOT[family]
    options = dataclasses.replace(
        options,
        steps=options.steps or per_shot * options.shots,
        steps_per_shot=None,
        batch_size=options.batch_size or _BATCH,
        schedule=options.schedule
        or ("constant" if options.optimizer == "schedule-free" else "cosine"),
    )
    check_resolved(options)
    batch, pieces = filled(options.batch_size), options.accumulate
    check_option(batch % pieces == 0, "accumulate", f"a divisor of the batch of {batch}", pieces)
    return options
