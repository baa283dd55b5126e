"""The trainer's options of who is learned, from what, by which methods, into which folder."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SubjectOptions:
    """What is trained, on what, and where it goes."""

    instance_dir: Path
    """Folder with the subject's photos."""
    prompt: str
    """What photos without a caption show, [V] for the subject: "a photo of a [V] mug"."""
    model: str = "embedded"
    """Base model: "embedded", a diffusers directory, or a Hub name."""
    method: str = "nora"
    """Adapter method; several with commas ("nora,lora") train as twins on the same batches.
    `nora-studio methods` lists them."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    name: str | None = None
    """Run name; the method is appended. None: the name of the photo folder."""
    trigger: str | None = None
    """Rare word that [V] becomes; one token in both tokenizers. None: chosen. With --new-tokens,
    the new ones' name: letters, digits and hyphens. None: the run's."""
