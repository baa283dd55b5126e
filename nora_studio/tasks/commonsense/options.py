"""Options of the commonsense trainer: one frozen dataclass for flags and TOML files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nora_studio.options.groups.adapter import PartOptions, TuningOptions
from nora_studio.options.groups.learning import LearningOptions
from nora_studio.options.groups.memory import BaseOptions, PrecisionOptions
from nora_studio.options.groups.watching import KeepingOptions, MeasuringOptions

PARTS = ("decoder",)
"""What a language model consists of, as far as adapters go."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is trained, on what, and where it goes."""

    model: str = "embedded"
    """Base model: "embedded", a directory or a Hub name of a transformers causal language model."""
    data: str = "embedded"
    """Questions: "embedded" (about the small world that the embedded model has read of), a JSON
    file such as commonsense_170k.json, or a folder of sets with a train.json each."""
    method: str = "nora"
    """Adapter method; several with commas ("nora,lora") train as twins on the same batches.
    `nora-studio methods` lists them."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    name: str = "commonsense"
    """Run name; the method is appended."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
    """Endings of the names of the adapted layers; the paper's."""
    decoder: PartOptions = field(default=PartOptions())
    cache: bool = True
    """Keep NoRA's outer factors on disk for the next run, in NORA_STUDIO_CACHE or the user's cache
    folder."""


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """How questions become batches."""

    epochs: float | None = None
    """Rounds through the questions, where `steps` is not given. None: 3; 1 on the embedded
    model."""
    cutoff: int = 256
    """Tokens of a question and its answer; what is longer is cut off."""
    train_on_inputs: bool | None = None
    """Learn the questions' own words too, as LLM-Adapters does. None: yes; on the embedded model
    the answers alone, so that so small a model learns them within minutes."""
    validation: int | None = None
    """Questions kept out of the training, to measure the loss on. None: 120."""
    group_by_length: bool = False
    """Batches of questions of like length: less padding, other batches."""
    packing: bool = False
    """Several questions in a row of `cutoff` tokens, each seeing itself alone: no padding, and
    more questions a step."""


@dataclass(frozen=True)
class CommonsenseOptions(
    KeepingOptions,
    MeasuringOptions,
    BaseOptions,
    PrecisionOptions,
    LearningOptions,
    QuestionOptions,
    TuningOptions,
    TaskOptions,
):
    """Adapt a language model to commonsense questions with NoRA, LoRA, or several as twins.

    Every option may also stand in a TOML file: `--config FILE`. Flags win over the file.
    """

    steps: int | None = None
    """Optimizer steps. None: as `epochs` says."""
    batch_size: int | None = None
    """Rows a step, over all processes. None: 16."""
    schedule: Literal["constant", "linear", "cosine", "cosine-restarts", "polynomial"] | None = None
    """Learning-rate schedule after the warm-up. None: linear; constant for schedule-free."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    evaluate_every: int = 200
    """Steps between measurements of the loss on the validation questions; 0: none."""
    keep_best: bool | None = None
    """Keep the checkpoint of the lowest measured loss too, whatever its age. None: where there are
    measurements."""
    final: Literal["last", "best"] | None = None
    """Which step becomes the adapter: the last, or the one of the lowest measured loss. None: best,
    where there are measurements."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    weight_decay: float = 0.0
    """Decoupled weight decay: of a weight, this times the rate is taken away each step; where an
    adapter does not start at zero (NoRA, PiSSA, OLoRA), of its distance from the start."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names in the order given."""
        return tuple(word.strip() for word in self.method.split(",") if word.strip())
