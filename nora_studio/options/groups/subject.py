"""Options of the subject, the base, the methods and the output folder."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SubjectOptions:
    """Subject, base, methods and output folder."""

    instance_dir: Path
    """Folder with the subject's photos."""
    prompt: str
    """Prompt of photos without a caption, [V] for the subject: "a photo of a [V] mug"."""
    model: str = "embedded"
    """Base model: "embedded", a diffusers directory, or a Hub name."""
    method: str = "nora"
    """Adapter method; several with commas ("nora,lora") train as twins on the same batches.
    `nora-studio methods` lists them."""
    output_dir: Path = Path("runs")
    """Folder for run folders."""
    name: str | None = None
    """Run name; the method is appended. None: the name of the photo folder."""
    trigger: str | None = None
    """Rare word that replaces [V]; one token in both tokenizers. None: chosen automatically. With
    --new-tokens, their name: letters, digits and hyphens. None: the run's name."""
