"""`nora-studio extract`: a NoRA fitted to the difference of two models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Fit a NoRA to what a fine-tuned model changed, and tell how much of it that is.

    The fit is the least-squares one between the base's leading singular vectors. Raise the outer
    rank where little is reachable, the rank where much is reachable and little captured.
    """

    base: str
    """The untouched model: "embedded", a diffusers directory, or a Hub name."""
    tuned: str
    """The fine-tuned model, of the same shapes."""
    out: Path
    """Adapter folder to write; it must not exist yet."""
    rank: int = 16
    """Inner rank."""
    outer_rank: int = 256
    """Rank of the frozen factors, at most the smallest layer's side."""
    targets: Literal["attention", "attention+feedforward"] = "attention"
    """Which linear layers are adapted."""
    trigger: str = ""
    """The word that the fine-tuned model learned, if it did."""
    prompt: str = ""
    """What it was tuned on, with [V] for the word."""
