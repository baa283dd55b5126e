"""Recommended settings of each method, by base model and optimizer."""

from nora_studio.adapters.methods.spec import TrainingDefaults
from nora_studio.adapters.methods.table import METHODS


def recommended(method: str, model: str) -> TrainingDefaults:
    """Return the recommendation for a method of the table on a base model.

    Args:
        method: A name in `METHODS`.
        model: The value of `--model`; everything but "embedded" is assumed to be an SDXL.
    """
    return METHODS[method].embedded if model == "embedded" else METHODS[method].sdxl


def rate_of(optimizer: str) -> float:
    """Return an optimizer's factor on the recommended rates, which are AdamW's.

    Lion's steps are larger.

    Source: Chen et al., arXiv 2302.06675, section 5: a third to a tenth of AdamW's rate.
    """
    return 0.2 if optimizer == "lion" else 1.0


def first_rate(method: str, model: str) -> float:
    """Return Prodigy's first estimate of a method's rate: a tenth of AdamW's.

    Its own default, 1e-6, takes most of a run of a hundred steps to grow, and it never decreases.
    """
    return recommended(method, model).unet / 10
