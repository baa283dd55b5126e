"""`nora-studio demo`: twins trained on a shipped subject, drawn and scored, in minutes on a CPU."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Train a NoRA and a LoRA on a shipped subject, draw six places, score and report."""

    out: Path = Path("demo")
    """Folder for runs, pictures, comparison.png and report.html."""
    subject: str = "sunrise-mug"
    """A folder of assets/subjects."""
    steps: int | None = None
    """Training steps. None: recommended."""
    seed: int = 0
    """Of training and of the drawn pictures."""
    inference_steps: int = 15
    """Denoising steps of a picture."""
    guidance: float = 5.0
    """Classifier-free guidance."""
