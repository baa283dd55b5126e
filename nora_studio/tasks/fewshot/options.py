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
    """The data set, and how many of its images are used."""

    dataset: str = "embedded"
    """"embedded", rendered on demand; food101, oxford_pets or dtd in CoOp's layout under
    --data-dir; or a folder with one folder of images for each class."""
    data_dir: Path | None = None
    """Folder with Food101/, OxfordPets/ or DTD/, each with its split_zhou file."""
    shots: int = 16
    """Training images of each class; min(shots, 4) others of each are used for validation."""
    template: str | None = None
    """Sentence of a class, {} for its name. None: "a photo of a {}."; for the embedded set without
    the full stop."""
    augment: bool = True
    """Train on random resized crops (8% to 100% of the area, bicubic), half of them mirrored.
    Off: on centre crops, as in the test; they are encoded only once if no image layer is
    trained."""
    test_limit: int | None = None
    """Test on this many images, evenly spaced over the split. None: all, as in the protocol."""


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """The model, the methods and the folders."""

    model: str = "embedded"
    """"embedded", a folder of open_clip's format, "hf-hub:owner/name" or ARCHITECTURE:WEIGHTS, such
    as ViT-B-16:openai; with open_clip's own ViT and text transformer."""
    method: str = "nora"
    """Method; several with commas ("nora,clip-lora,zero-shot") train as twins on the same
    batches."""
    twins: bool = True
    """Train several methods in one loop. Off: one after the other on the same batches, so that each
    method's time per step is measured alone."""
    output_dir: Path = Path("runs")
    """Folder for run folders."""
    name: str | None = None
    """Run name; the method is appended. None: a name such as embedded-16shots-seed0."""
    merged: bool = False
    """Also write the adapted model in open_clip's own format, into `merged/` of the run."""


@dataclass(frozen=True, kw_only=True)
class EncodersOptions:
    """The adapters of each encoder, and the loss."""

    targets: Literal["qkv", "qkvo"] = "qkv"
    """Attention layers adapted in every block: q, k, v as published, or the output layer too."""
    vision: PartOptions = field(default_factory=PartOptions)
    """The image encoder's adapter."""
    text: PartOptions = field(default_factory=PartOptions)
    """The text encoder's adapter."""
    logit_scale: Literal["protocol", "model"] = "protocol"
    """Factor of the cosines in the loss: 100, or the model's own exp(logit_scale)."""
    steps_per_shot: int | None = None
    """Steps for each shot, if `steps` is not given. None: 500, and 40 on the embedded model."""
    final_rate: float | None = None
    """Learning rate at the end of a cosine schedule. None: 1e-6."""


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
    """Adapt a CLIP model to a few images of each class, and test it.

    Options can also be set in a TOML file: `--config FILE`. Flags override the file.
    """

    warmup_steps: int = 0
    """Steps of linear warm-up; the protocol has none."""
    weight_decay: float = 0.01
    """Decoupled weight decay: each step subtracts this times the learning rate times the weight, or
    times its distance from the start if the adapter does not start at zero (NoRA, PiSSA, OLoRA)."""
    max_gradient_norm: float = float("inf")
    """Norm that each run's gradients are clipped to; inf for no clipping, as in the protocol."""
    dropout: float = 0.25
    """Dropout on the adapters' input, at least 0 and below 1."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names in the order given."""
        return tuple(word.strip() for word in self.method.split(",") if word.strip())

    @property
    def run_name(self) -> str:
        """Stem of the run folders' names."""
        return self.name or f"{Path(self.dataset).name}-{self.shots}shots-seed{self.seed}"
