"""The trainer's options of what is shown, measured and kept while it trains."""

from dataclasses import dataclass

from nora_studio.settings.checks import check_above_zero, check_not_negative


@dataclass(frozen=True, kw_only=True)
class WatchingOptions:
    """Samples, measurements, log lines and checkpoints."""

    sample_prompt: str | None = None
    """Prompt of the fixed-seed samples, [V] allowed. None: `prompt`."""
    sample_every: int = 100
    """Steps between samples; 0: only the base's picture and the final one."""
    sample_seed: int = 0
    """Seed of the samples' starting noise."""
    sample_steps: int = 25
    """Inference steps of a sample."""
    guidance: float = 5.0
    """Classifier-free guidance of a sample."""
    hold_out: int = 0
    """Photos kept out of the training, the last ones by name, to measure the loss on. With 0 the
    loss at fixed noise is measured on training photos."""
    evaluate_every: int = 50
    """Steps between such measurements; 0: none."""
    log_every: int = 10
    """Steps between lines of log.jsonl; losses are read back from the device only then."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept, newest first; at least 1."""
    resume: bool = False
    """Go on from the newest checkpoint of the run of that name."""


def check_watching_options(options: WatchingOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such.
    """
    check_above_zero(options, ("log_every", "checkpoint_every", "keep_checkpoints", "sample_steps"))
    check_not_negative(options, ("sample_every", "guidance", "hold_out", "evaluate_every"))
