"""The trainer's options of the loss: what a step is judged by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nora_studio.errors import StudioError
from nora_studio.options.groups.checks import check_above_zero, check_not_negative


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What is learned from a picture at a noise level."""

    weighting: Literal["none", "min-snr", "debiased"] = "none"
    """What a timestep counts in the loss: all the same, min-SNR (arXiv 2303.09556), or debiased
    (arXiv 2310.08442). A base with an EDM scheduler weights by itself."""
    snr_gamma: float | None = None
    """Gamma of min-SNR. None: 5."""
    noise_offset: float = 0.0
    """Shift of each channel's noise (0.05 is usual), for very dark or bright pictures; 0: none."""
    max_timestep: int | None = None
    """Train on timesteps below this, 1 to the schedule's length. Layout and background are settled
    at the high ones, so leaving them out keeps the photos' places from being learned. None: all."""
    prior_weight: float = 0.0
    """Weight of prior preservation: as many pictures of the class, drawn by the base, are learned
    with every batch (1 is usual), so that the class stays what it was. 0: none."""
    class_prompt: str | None = None
    """What the class's pictures show. None: the prompt without [V]."""
    class_pictures: int | None = None
    """How many of them. None: 20 on the embedded model, 100 otherwise."""
    class_dir: Path | None = None
    """Folder they are kept in and used again from; your own pictures there count. None: one for
    each model and class prompt, beside the runs."""


def check_loss_options(options: LossOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such.
    """
    check_above_zero(options, ("snr_gamma", "class_pictures", "max_timestep"))
    check_not_negative(options, ("noise_offset", "prior_weight"))
    if options.class_prompt is not None and not options.class_prompt.strip():
        raise StudioError("--class-prompt: expected what the class's pictures show; got no word.")
    if options.snr_gamma is not None and options.weighting != "min-snr":
        raise StudioError(
            f"--snr-gamma: a setting of --weighting min-snr; got it with {options.weighting!r}."
        )
    if options.prior_weight == 0:
        for name in ("class_prompt", "class_pictures", "class_dir"):
            if getattr(options, name) is not None:
                raise StudioError(
                    f"--{name.replace('_', '-')}: a setting of prior preservation, which is off. "
                    "Set --prior-weight, 1 for example."
                )
