"""`nora-studio demo`: train, generate, score and report on a shipped subject, on a CPU."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Train a NoRA and a LoRA on a shipped subject, generate it in six places, score and report."""

    out: Path = Path("demo")
    """Folder for runs, images, comparison.png and report.html."""
    subject: str = "sunrise-mug"
    """Name of a folder in assets/subjects."""
    steps: int | None = None
    """Training steps. None: the recommended number."""
    seed: int = 0
    """Seed of the training and of the generated images."""
    inference_steps: int = 15
    """Denoising steps per image."""
    guidance: float = 5.0
    """Classifier-free guidance scale; at 1 or below there is no guidance."""
