"""Options of the DreamBooth trainer: one frozen dataclass for flags, TOML files and forms."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nora_studio.settings.learning import LearningOptions
from nora_studio.settings.loss import LossOptions
from nora_studio.settings.memory import MemoryOptions
from nora_studio.settings.photos import PhotoOptions
from nora_studio.settings.tokens import TokenOptions
from nora_studio.settings.watching import WatchingOptions

PART_FIELDS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class PartOptions:
    """One of SDXL's three adapted modules. None means the method's recommended value."""

    train: bool = True
    """Whether this part gets an adapter at all."""
    rank: int | None = None
    """Rank of the trained factors, at least 1; `nora-studio methods` says what each counts."""
    outer_rank: int | None = None
    """NoRA's frozen outer rank, at least `rank`. Only NoRA has one."""
    alpha: float | None = None
    """The adapter's scale is alpha / rank. None: the method's usual scale, 1 for nearly all."""
    learning_rate: float | None = None
    """Peak learning rate of this part."""


@dataclass(frozen=True)
class DreamboothOptions(
    WatchingOptions, MemoryOptions, LossOptions, TokenOptions, LearningOptions, PhotoOptions
):
    """Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    Every option may also stand in a TOML file: `--config FILE`. Flags win over the file.
    """

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

    targets: Literal["attention", "attention+feedforward"] | None = None
    """Which linear layers are adapted. None: attention; feed-forward too on the embedded model."""
    unet: PartOptions = PartOptions()
    text_encoder: PartOptions = PartOptions()
    text_encoder_2: PartOptions = PartOptions()
    outer: Literal["svd", "randomized", "activation"] = "svd"
    """How NoRA finds its outer factors: exactly, faster, or along the first batch's activations."""
    start: Literal["difference", "paper"] = "difference"
    """NoRA's start: exactly the base, or as the paper prints it, top directions doubled."""
    override: tuple[str, ...] = ()
    """Options for one twin alone: METHOD.PART.OPTION=VALUE, such as lora.unet.rank=16."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names in the order given."""
        return tuple(word.strip() for word in self.method.split(",") if word.strip())

    @property
    def run_name(self) -> str:
        """Stem of the run folders' names."""
        return self.name or Path(self.instance_dir).resolve().name


def suggestion(word: str, known: Sequence[str]) -> str:
    """ " Did you mean ...?" when something known is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
