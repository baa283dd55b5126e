"""Options of samples, measurements, the log and checkpoints."""

from dataclasses import dataclass
from typing import Any, Literal

from nora_studio.errors import StudioError
from nora_studio.options.groups.checks import (
    check_above_zero,
    check_not_negative,
    check_option,
    without_effect,
)

DEFAULT_PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Samples, their scores, and held-out photos."""

    sample_prompts: tuple[str, ...] = ()
    """Prompts of the fixed-seed samples, with or without [V]: "a [V] mug in the snow" "a [V] mug on
    a beach". None: only `prompt`."""
    sample_every: int = 100
    """Steps between samples; 0: only the base's samples and the final ones."""
    sample_seed: int = 0
    """Seed of the samples' starting noise."""
    sample_steps: int = 25
    """Inference steps of a sample."""
    guidance: float = 5.0
    """Classifier-free guidance of a sample."""
    score_samples: bool | None = None
    """Score the samples with CLIP: similarity to the subject (in the held-out photos, or else the
    training photos) and to their prompts. None: on the embedded model, and with `clip`."""
    clip: str | None = None
    """CLIP that scores the samples: an open_clip folder, "hf-hub:owner/name" or
    ARCHITECTURE:WEIGHTS, such as ViT-B-32:openai. None: the embedded one, only for the embedded
    model's images."""
    hold_out: int = 0
    """Photos held out to measure the loss on, the last ones by name. With 0 the loss at fixed noise
    is measured on training photos."""


@dataclass(frozen=True, kw_only=True)
class MeasuringOptions:
    """Measurements of the loss, and early stopping."""

    evaluate_every: int = 50
    """Steps between measurements of the loss; 0: none."""
    early_stop: Literal["none", "plateau", "overfit"] = "none"
    """Stop before the last step. plateau: in `patience` measurements in a row, no loss was more
    than 0.5% below the best before; overfit: the held-out loss was above its best by more than its
    own noise. Twins stop together, once the rule holds for each."""
    patience: int | None = None
    """Number of measurements for an early stop. None: 3."""
    keep_best: bool | None = None
    """Keep the checkpoint with the lowest measured loss too, whatever its age. None: with photos
    held out, and if `final` is best."""
    final: Literal["last", "best"] | None = None
    """Which step becomes the adapter: the last, or the one with the lowest measured loss. None:
    last; best with an early stop by overfit."""


@dataclass(frozen=True, kw_only=True)
class KeepingOptions:
    """Log lines and checkpoints."""

    log_every: int = 10
    """Steps between lines of log.jsonl; losses are read from the device only then."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Tracker that the log and the samples are also sent to."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep; at least 1."""
    resume: bool = False
    """Continue the run of this name from its newest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class WatchingOptions(KeepingOptions, MeasuringOptions, SampleOptions):
    """Options of samples, measurements, the log and checkpoints."""


def check_keeping_options(options: KeepingOptions) -> None:
    """Refuse values out of range.

    Raises:
        StudioError: a value is out of range.
    """
    check_above_zero(options, ("log_every", "checkpoint_every", "keep_checkpoints"))


def check_watching_options(options: WatchingOptions) -> None:
    """Refuse values out of range, and options without effect.

    Raises:
        StudioError: an option is refused.
    """
    check_keeping_options(options)
    check_above_zero(options, ("sample_steps", "patience"))
    check_not_negative(options, ("sample_every", "guidance", "hold_out", "evaluate_every"))
    prompts = options.sample_prompts
    check_option(all(p.strip() for p in prompts), "sample_prompts", "no empty prompts", prompts)
    distinct = len(set(prompts)) == len(prompts)
    check_option(distinct, "sample_prompts", "different prompts", prompts)
    if options.clip is not None and options.score_samples is False:
        raise without_effect("clip", "--score-samples")
    check_patience(options)
    if options.early_stop == "overfit" and options.hold_out == 0:
        raise StudioError(
            "--early-stop overfit needs the loss on held-out photos, and there are none. Set "
            "--hold-out, 1 for example, or use --early-stop plateau."
        )
    unmeasured = "--evaluate-every is 0" if options.evaluate_every == 0 else None
    check_measured(options, unmeasured)


def check_patience(options: MeasuringOptions) -> None:
    """Refuse a patience without an early stop.

    Raises:
        StudioError: the patience has no effect.
    """
    if options.patience is not None and options.early_stop == "none":
        raise without_effect("patience", "--early-stop", "plateau")


def check_measured(options: MeasuringOptions, unmeasured: str | None) -> None:
    """Refuse options without the measurements they need, or `--final best` with `--no-keep-best`.

    Args:
        unmeasured: Why the loss is not measured; None if it is.

    Raises:
        StudioError: such an option is set.
    """
    if options.final == "best" and options.keep_best is False:
        raise StudioError(
            "--final best: --no-keep-best would remove its checkpoint. Leave one of them out."
        )
    for flag, wanted in (
        ("--early-stop", options.early_stop != "none"),
        ("--keep-best", options.keep_best is True),
        ("--final best", options.final == "best"),
    ):
        if wanted and unmeasured is not None:
            raise StudioError(
                f"{flag} needs measurements (has no effect without them), and {unmeasured}. Raise "
                f"it, or leave {flag} out."
            )


def recommended_watching(
    options: WatchingOptions, steps: int, unscored: str | None
) -> dict[str, Any]:
    """Return recommended values for options that are None, by name.

    Args:
        steps: Steps of the run.
        unscored: Why samples of this base have no judge; None if they have one.

    Raises:
        StudioError: the samples have no judge, or the run is too short for an early stop.
    """
    if options.score_samples and unscored is not None:
        raise StudioError(f"--score-samples: {unscored}")
    by_overfit = options.early_stop == "overfit" and options.keep_best is not False
    final = options.final or ("best" if by_overfit else "last")
    scored, kept = options.score_samples, options.keep_best
    if scored is None:
        scored = unscored is None
    if kept is None:
        kept = final == "best" or (options.hold_out > 0 and options.evaluate_every > 0)
    patience = options.patience
    if options.early_stop != "none":
        patience = patience or DEFAULT_PATIENCE
        before_last = (steps - 1) // options.evaluate_every
        if before_last <= patience:
            raise StudioError(
                f"--early-stop: {steps} steps with --evaluate-every {options.evaluate_every} make "
                f"{before_last} measurements before the last; a patience of {patience} needs "
                f"{patience + 1}. Lower --evaluate-every or --patience."
            )
    return {
        "score_samples": scored,
        "keep_best": kept,
        "final": final,
        "patience": patience,
    }
