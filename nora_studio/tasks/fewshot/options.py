"""Options of the few-shot trainer: one frozen dataclass for flags and TOML files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nora_studio.options.groups.adapter import PartOptions, TuningOptions
from nora_studio.options.groups.learning import LearningOptions
from nora_studio.options.groups.memory import PrecisionOptions
from nora_studio.options.groups.watching import KeepingOptions

PARTS = ("vision", "text")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What is classified, and from how many examples."""

    dataset: str = "embedded"
    """"embedded", drawn on demand; food101, oxford_pets or dtd in CoOp's layout under --data-dir;
    or a folder with one folder of pictures for each class."""
    data_dir: Path | None = None
    """Folder that holds Food101/, OxfordPets/ or DTD/, each with its split_zhou file."""
    shots: int = 16
    """Training pictures of each class; min(shots, 4) more of each validate."""
    template: str | None = None
    """A class in a sentence, {} for its name. None: "a photo of a {}."; the embedded set's has no
    full stop."""
    augment: bool = True
    """Learn from random resized crops (8% to 100% of the area, bicubic), half of them mirrored.
    Off: from the pictures as they are tested; where no image layer is trained, each is then encoded
    once."""
    test_limit: int | None = None
    """Test on that many pictures, spread evenly over the split. None: all, as the protocol."""


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """Which model, which methods, into which folders."""

    model: str = "embedded"
    """"embedded", a folder of open_clip's format, "hf-hub:owner/name" or ARCHITECTURE:WEIGHTS, such
    as ViT-B-16:openai; with open_clip's own ViT and text transformer."""
    method: str = "nora"
    """Method; several with commas ("nora,clip-lora,zero-shot") train as twins on the same
    batches."""
    twins: bool = True
    """Several methods share one loop. Off: one after the other on the same batches, so that the
    seconds in each one's log are its own."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    name: str | None = None
    """Run name; the method is appended. None: such as embedded-16shots-seed0."""
    merged: bool = False
    """Also write the adapted model in open_clip's own format, into `merged/` of the run."""


@dataclass(frozen=True, kw_only=True)
class EncodersOptions:
    """Where the adapter goes in each encoder, and the loss."""

    targets: Literal["qkv", "qkvo"] = "qkv"
    """Attention layers that are adapted in every block: q, k, v as published, or the output too."""
    vision: PartOptions = field(default_factory=PartOptions)
    """The image encoder's adapter."""
    text: PartOptions = field(default_factory=PartOptions)
    """The text encoder's adapter."""
    logit_scale: Literal["protocol", "model"] = "protocol"
    """What cosines are multiplied by in the loss: 100, or the model's own exp(logit_scale)."""
    steps_per_shot: int | None = None
    """Where `steps` is not given: steps for each shot. None: 500, and 40 on the embedded model."""
    final_rate: float | None = None
    """Learning rate that a cosine ends at. None: 1e-6."""


@dataclass(frozen=True)
class FewshotOptions(
    KeepingOptions,
    PrecisionOptions,
    LearningOptions,
    TuningOptions,
    EncodersOptions,
    DataOptions,
    ClipOptions,
):
    """Adapt a CLIP model to a few pictures of each class, and test it.

    Every option may also stand in a TOML file: `--config FILE`. Flags win over the file.
    """

    warmup_steps: int = 0
    """Steps of linear warm-up; the protocol has none."""
    weight_decay: float = 0.01
    """Decoupled weight decay: of a weight, this times the rate is taken away each step; where an
    adapter does not start at zero (NoRA, PiSSA, OLoRA), of its distance from the start."""
    max_gradient_norm: float = float("inf")
    """Gradients are clipped to this norm, per run; inf, as in the protocol: never."""
    dropout: float = 0.25
    """Dropout on the adapters' input, 0 to below 1."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names in the order given."""
        return tuple(word.strip() for word in self.method.split(",") if word.strip())

    @property
    def run_name(self) -> str:
        """Stem of the run folders' names."""
        return self.name or f"{Path(self.dataset).name}-{self.shots}shots-seed{self.seed}"
