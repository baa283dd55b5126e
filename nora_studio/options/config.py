"""Options of the DreamBooth trainer: one frozen dataclass for flags, TOML files and forms."""

from dataclasses import dataclass
from pathlib import Path

from nora_studio.options.groups.adapter import AdapterOptions, PartOptions, TuningOptions
from nora_studio.options.groups.learning import EncoderOptions, LearningOptions
from nora_studio.options.groups.loss import LossOptions
from nora_studio.options.groups.memory import BaseOptions, MemoryOptions, PrecisionOptions
from nora_studio.options.groups.photos import PhotoOptions
from nora_studio.options.groups.subject import SubjectOptions
from nora_studio.options.groups.tokens import TokenOptions
from nora_studio.options.groups.watching import WatchingOptions

__all__ = ["PART_FIELDS", "DreamboothOptions", "PartOptions"]

PART_FIELDS = ("unet", "text_encoder", "text_encoder_2")


# The last base's fields come first: flags and files list the options in the order of their pages.
@dataclass(frozen=True, kw_only=True)
class MethodOptions(TuningOptions, AdapterOptions):
    """Options of the adapter."""


@dataclass(frozen=True, kw_only=True)
class DataOptions(TokenOptions, PhotoOptions):
    """Options of photos and new tokens."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(LossOptions, EncoderOptions, LearningOptions):
    """Options of the loss and the optimizer."""


@dataclass(frozen=True, kw_only=True)
class MachineOptions(MemoryOptions, BaseOptions, PrecisionOptions):
    """Options of memory and speed."""


@dataclass(frozen=True)
class DreamboothOptions(
    WatchingOptions,
    MachineOptions,
    ObjectiveOptions,
    DataOptions,
    MethodOptions,
    SubjectOptions,
):
    """Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    Options can also be set in a TOML file: `--config FILE`. Flags override the file.
    """

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names in the order given."""
        return tuple(word.strip() for word in self.method.split(",") if word.strip())

    @property
    def run_name(self) -> str:
        """Stem of the run folders' names."""
        return self.name or Path(self.instance_dir).expanduser().resolve().name
