"""The trainer's options of what is shown, measured and kept while it trains."""

from dataclasses import dataclass
from typing import Any, Literal

from nora_studio.errors import StudioError
from nora_studio.options.groups.checks import check_above_zero, check_not_negative, check_option

DEFAULT_PATIENCE = 3


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Samples, and what they and the loss are judged by."""

    sample_prompts: tuple[str, ...] = ()
    """Prompts of the fixed-seed samples, [V] allowed: "a [V] mug in the snow" "a [V] mug on a
    beach". None: `prompt` alone."""
    sample_every: int = 100
    """Steps between samples; 0: only the base's pictures and the final ones."""
    sample_seed: int = 0
    """Seed of the samples' starting noise."""
    sample_steps: int = 25
    """Inference steps of a sample."""
    guidance: float = 5.0
    """Classifier-free guidance of a sample."""
    score_samples: bool | None = None
    """Judge the samples by CLIP: are they this subject (against the held-out photos, else the
    training's), and what their prompts say? None: on the embedded model, and with `clip`."""
    clip: str | None = None
    """That judge: an open_clip folder, "hf-hub:owner/name" or ARCHITECTURE:WEIGHTS, such as
    ViT-B-32:openai. None: the embedded one, which knows the embedded model's pictures."""
    hold_out: int = 0
    """Photos kept out of the training, the last ones by name, to measure the loss on. With 0 the
    loss at fixed noise is measured on training photos."""


@dataclass(frozen=True, kw_only=True)
class MeasuringOptions:
    """Measurements of the loss, and what they lead to."""

    evaluate_every: int = 50
    """Steps between such measurements; 0: none."""
    early_stop: Literal["none", "plateau", "overfit"] = "none"
    """End before the last step. plateau: no measured loss more than 0.5% below the best before, for
    `patience` measurements; overfit: the held-out loss above its best by more than its own noise
    for as many. Twins end together, once each has said so."""
    patience: int | None = None
    """Measurements that an early stop waits for. None: 3."""
    keep_best: bool | None = None
    """Keep the checkpoint of the lowest measured loss too, whatever its age. None: with photos held
    out, and where `final` is best."""
    final: Literal["last", "best"] | None = None
    """Which step becomes the adapter: the last, or the one of the lowest measured loss. None: last;
    best with an early stop by overfit."""


@dataclass(frozen=True, kw_only=True)
class KeepingOptions:
    """Log lines and checkpoints."""

    log_every: int = 10
    """Steps between lines of log.jsonl; losses are read back from the device only then."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where the log and the samples go besides the run's folder."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept, newest first; at least 1."""
    resume: bool = False
    """Go on from the newest checkpoint of the run of that name."""


@dataclass(frozen=True, kw_only=True)
class WatchingOptions(KeepingOptions, MeasuringOptions, SampleOptions):
    """All that is shown, measured and kept."""


def check_keeping_options(options: KeepingOptions) -> None:
    """Refuse values out of range.

    Raises:
        StudioError: one is such.
    """
    check_above_zero(options, ("log_every", "checkpoint_every", "keep_checkpoints"))


def check_watching_options(options: WatchingOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such.
    """
    check_keeping_options(options)
    check_above_zero(options, ("sample_steps", "patience"))
    check_not_negative(options, ("sample_every", "guidance", "hold_out", "evaluate_every"))
    prompts = options.sample_prompts
    check_option(all(p.strip() for p in prompts), "sample_prompts", "no empty one", prompts)
    check_option(len(set(prompts)) == len(prompts), "sample_prompts", "each once", prompts)
    if options.clip is not None and options.score_samples is False:
        raise StudioError("--clip: the judge of --score-samples, which is off. Leave one out.")
    check_patience(options)
    if options.early_stop == "overfit" and options.hold_out == 0:
        raise StudioError(
            "--early-stop overfit: watches the loss on photos held out, and there are none. Set "
            "--hold-out, 1 for example, or take --early-stop plateau."
        )
    unmeasured = "--evaluate-every 0 makes none" if options.evaluate_every == 0 else None
    check_measured(options, unmeasured)


def check_patience(options: MeasuringOptions) -> None:
    """Refuse a patience that nothing waits for.

    Raises:
        StudioError: it is one.
    """
    if options.patience is not None and options.early_stop == "none":
        raise StudioError("--patience: a setting of --early-stop plateau or overfit, which is off.")


def check_measured(options: MeasuringOptions, unmeasured: str | None) -> None:
    """Refuse what measurements lead to, where there are none or their best is not kept.

    Args:
        unmeasured: Why nothing is measured; None: it is.

    Raises:
        StudioError: it is asked for.
    """
    if options.final == "best" and options.keep_best is False:
        raise StudioError("--final best: its checkpoint would be lost by --no-keep-best.")
    for flag, wanted in (
        ("--early-stop", options.early_stop != "none"),
        ("--keep-best", options.keep_best is True),
        ("--final best", options.final == "best"),
    ):
        if wanted and unmeasured is not None:
            raise StudioError(f"{flag}: needs measurements; {unmeasured}.")


def recommended_watching(
    options: WatchingOptions, steps: int, unscored: str | None
) -> dict[str, Any]:
    """Decide what None stands for in these options, by name, on a run of that many steps.

    Args:
        unscored: Why samples on this base have no judge; None: they have one.

    Raises:
        StudioError: the samples have no judge, or the early stop could never come.
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
