"""`nora-studio extract`: fit a NoRA to the difference of two models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Fit a NoRA to what a fine-tuned model changed, and report how much of it the fit captures.

    The fit is the least-squares one between the base's leading singular vectors. If little of the
    change is reachable, raise --outer-rank; if much is reachable but little captured, raise --rank.
    """

    base: str
    """The original model: "embedded", a diffusers directory, or a Hub name."""
    tuned: str
    """The fine-tuned model, of the same architecture."""
    out: Path
    """Adapter folder to write; it must be new or empty."""
    rank: int = 16
    """Inner rank."""
    outer_rank: int = 256
    """Rank of the frozen outer factors; at most the smallest side of a layer."""
    targets: Literal["attention", "attention+feedforward"] = "attention"
    """Linear layers to adapt."""
    trigger: str = ""
    """Trigger word that the fine-tuned model learned, if any."""
    prompt: str = ""
    """Prompt that it was tuned on, with [V] for the trigger word."""
