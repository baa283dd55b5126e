"""Fill in recommended options for the model and the questions, and check all options early."""

import dataclasses
import math

from nora_studio.adapters.methods.quantised import check_base_bits
from nora_studio.errors import StudioError
from nora_studio.options.defaults import check_methods
from nora_studio.options.groups.adapter import check_adapter_options
from nora_studio.options.groups.checks import (
    check_above_zero,
    check_not_negative,
    check_option,
    filled,
)
from nora_studio.options.groups.learning import check_learning_options, check_resolved
from nora_studio.options.groups.watching import (
    DEFAULT_PATIENCE,
    check_keeping_options,
    check_measured,
    check_patience,
)
from nora_studio.options.paths import check_folder_name
from nora_studio.runs import processes
from nora_studio.tasks.commonsense.examples import Example, fill
from nora_studio.tasks.commonsense.options import CommonsenseOptions

BATCH = 16
VALIDATION = 120


def with_recommended(options: CommonsenseOptions) -> CommonsenseOptions:
    """Fill in all options but the steps, which depend on the questions, and check them.

    Raises:
        StudioError: a value is out of range, or options cannot be combined.
    """
    check_adapter_options(options)
    check_learning_options(options)
    check_keeping_options(options)
    check_above_zero(options, ("epochs", "patience", "cutoff"))
    check_not_negative(options, ("evaluate_every",))
    is_embedded = options.model == "embedded"
    validation = VALIDATION if options.validation is None else options.validation
    check_option(validation >= 0, "validation", "0 or more", validation)
    if options.steps is not None and options.epochs is not None:
        raise StudioError("--epochs: --steps already sets the length. Leave one of them out.")
    if options.packing and options.group_by_length:
        raise StudioError(
            "--group-by-length has no effect with --packing, which makes all rows equally long. "
            "Leave one of them out."
        )
    measures = validation > 0 and options.evaluate_every > 0
    check_patience(options)
    none = "--evaluate-every or --validation is 0"
    check_measured(options, None if measures else none)
    options = dataclasses.replace(
        options,
        batch_size=BATCH if options.batch_size is None else options.batch_size,
        validation=validation,
        epochs=options.epochs or (None if options.steps else 1.0 if is_embedded else 3.0),
        train_on_inputs=(
            not is_embedded if options.train_on_inputs is None else options.train_on_inputs
        ),
        schedule=options.schedule
        or ("constant" if options.optimizer == "schedule-free" else "linear"),
        evaluate_every=options.evaluate_every if measures else 0,
        keep_best=measures if options.keep_best is None else options.keep_best,
        final=options.final or ("best" if measures and options.keep_best is not False else "last"),
        patience=options.patience or (None if options.early_stop == "none" else DEFAULT_PATIENCE),
    )
    processes.check_shares(filled(options.batch_size), options.accumulate)
    methods = options.methods
    check_option(bool(methods), "method", "at least one method", options.method)
    check_option(len(set(methods)) == len(methods), "method", "each once", options.method)
    check_methods(options)
    check_folder_name(options.name, "--name", [f"-{method}" for method in methods])
    check_base_bits(methods, options.base_bits)
    if not options.decoder.train:
        raise StudioError(
            "--decoder.no-train leaves nothing to train: the decoder is the only part with an "
            "adapter. Leave --decoder.no-train out."
        )
    check_option(bool(options.targets), "targets", "at least one ending", options.targets)
    if options.outer == "activation":
        raise StudioError(
            "--outer activation: only the DreamBooth trainer records activations. Use svd."
        )
    return options


def with_steps(options: CommonsenseOptions, examples: list[Example]) -> CommonsenseOptions:
    """Compute the steps from the epochs, and check options that depend on them.

    Raises:
        StudioError: an option reaches past the end of the run.
    """
    if options.steps is None:
        rows = len(examples)
        if options.packing:
            rows = len(fill([len(example.ids) for example in examples], options.cutoff))
        steps = math.ceil(filled(options.epochs) * rows / filled(options.batch_size))
        options = dataclasses.replace(options, steps=max(1, steps))
    check_resolved(options)
    return options
