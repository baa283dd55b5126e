"""Where to start with each method: what its record says for a base model, and for an optimizer."""

from nora_studio.adapters.methods.spec import TrainingDefaults
from nora_studio.adapters.methods.table import METHODS


def recommended(method: str, model: str) -> TrainingDefaults:
    """Return the recommendation for a method of the table on a base model.

    Args:
        method: A name in `METHODS`.
        model: As `--model` takes it; everything but "embedded" is taken for an SDXL.
    """
    return METHODS[method].embedded if model == "embedded" else METHODS[method].sdxl


def rate_of(optimizer: str) -> float:
    """Return an optimizer's share of the recommended rates, which are AdamW's.

    Lion's steps are larger.

    Source: Chen et al., arXiv 2302.06675, section 5: a third to a tenth of AdamW's rate.
    """
    return 0.2 if optimizer == "lion" else 1.0


def first_rate(method: str, model: str) -> float:
    """Where Prodigy begins to look for a method's rate: a tenth of AdamW's.

    Its own 1e-6 takes most of a run of a hundred steps to be left behind, and it never goes down.
    """
    return recommended(method, model).unet / 10
