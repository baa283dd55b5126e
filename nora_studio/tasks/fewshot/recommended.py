"""Recommended rank, scale and learning rates of each few-shot method.

They are in the methods' records (`adapters.methods.table`); only CLIP-Adapter's are here.
"""

import dataclasses

from nora_studio.adapters.methods.spec import UniformDefaults
from nora_studio.adapters.methods.table import METHODS
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


_CLIP_ADAPTER = {
    "clip": UniformDefaults(4, (1e-3,), source="paper, ratio 4"),
    "embedded_clip": UniformDefaults(4, (3e-3, 1e-3, 1e-2)),
}


def recommended(method: str, model: str) -> UniformDefaults:
    """Return a method's recommended settings on a model.

    Args:
        method: Name of a few-shot method that trains.
        model: The value of `--model`.
    """
    family = "embedded_clip" if model == "embedded" else "clip"
    if method == "clip-adapter":
        return _CLIP_ADAPTER[family]
    # CLIP-LoRA is the paper's name for rsLoRA on CLIP.
    usual = getattr(METHODS["rslora" if method == "clip-lora" else method], family)
    assert usual is not None, f"the record of {method} has no {family}"
    return usual


def final_rate_of(options: FewshotOptions) -> float:
    """Return the learning rate at the end of a cosine; 0 for other schedules, which ignore it."""
    rate = FINAL_RATE if options.final_rate is None else options.final_rate
    return rate if options.schedule == "cosine" else 0.0


def with_recommended(options: FewshotOptions, known: dict[str, str]) -> FewshotOptions:
    """Fill in recommended steps and batch size, and check options that do not depend on files.

    Args:
        known: Each few-shot method's adapter method; "" for none.

    Raises:
        StudioError: a value is out of range, or a method is unknown.
    """
    family = "mini" if options.model == "embedded" else "clip"
    check_learning_options(options)
    check_adapter_options(options)
    check_keeping_options(options)
    check_above_zero(options, ("shots", "steps_per_shot", "test_limit"))
    if options.final_rate is not None:
        check_not_negative(options, ("final_rate",))
        cosine = options.schedule in (None, "cosine") and options.optimizer != "schedule-free"
        check_option(cosine, "final_rate", "--schedule cosine", options.schedule)
    if options.template is not None:
        check_option("{}" in options.template, "template", "{} for the class", options.template)
    if options.steps is not None and options.steps_per_shot is not None:
        raise StudioError(
            "--steps-per-shot: --steps already sets the number. Leave one of them out."
        )
    methods = options.methods
    check_option(bool(methods), "method", "at least one method", options.method)
    check_option(len(set(methods)) == len(methods), "method", "each once", options.method)
    for method in methods:
        check_option(method in known, "method", f"one of {', '.join(known)}", method)
    check_run_name(options, options.run_name, "dataset")
    tuners = [known[method] for method in methods if known[method]]
    if tuners:
        # With the adapter methods' own names; all of them support dropout, on by default here.
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
