"""Options of the DreamBooth trainer: one frozen dataclass for flags, TOML files and forms."""

from dataclasses import dataclass
from pathlib import Path

from nora_studio.options.settings.adapter import AdapterOptions, PartOptions, TuningOptions
from nora_studio.options.settings.learning import EncoderOptions, LearningOptions
from nora_studio.options.settings.loss import LossOptions
from nora_studio.options.settings.memory import BaseOptions, MemoryOptions, PrecisionOptions
from nora_studio.options.settings.photos import PhotoOptions
from nora_studio.options.settings.subject import SubjectOptions
from nora_studio.options.settings.tokens import TokenOptions
from nora_studio.options.settings.watching import WatchingOptions

__all__ = ["PART_FIELDS", "DreamboothOptions", "PartOptions"]

PART_FIELDS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class DreamboothOptions(
    WatchingOptions,
    MemoryOptions,
    BaseOptions,
    PrecisionOptions,
    LossOptions,
    EncoderOptions,
    LearningOptions,
    TokenOptions,
    PhotoOptions,
    TuningOptions,
    AdapterOptions,
    SubjectOptions,
):
    """Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    Every option may also stand in a TOML file: `--config FILE`. Flags win over the file.
    """

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names in the order given."""
        return tuple(word.strip() for word in self.method.split(",") if word.strip())

    @property
    def run_name(self) -> str:
        """Stem of the run folders' names."""
        return self.name or Path(self.instance_dir).expanduser().resolve().name
