"""Options of the commonsense trainer: one frozen dataclass for flags and TOML files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nora_studio.options.groups.adapter import PartOptions, TuningOptions
from nora_studio.options.groups.learning import LearningOptions
from nora_studio.options.groups.memory import BaseOptions, PrecisionOptions
from nora_studio.options.groups.watching import KeepingOptions, MeasuringOptions

PARTS = ("decoder",)
"""Names of the parts of a language model that can be adapted."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """The model, the questions, the methods and the folders."""

    model: str = "embedded"
    """Base model: "embedded", a directory or a Hub name of a transformers causal language model."""
    data: str = "embedded"
    """Questions: "embedded" (about the world of the embedded model's training texts), a JSON file
    such as commonsense_170k.json, or a folder of sets with a train.json each."""
    method: str = "nora"
    """Adapter method; several with commas ("nora,lora") train as twins on the same batches.
    `nora-studio methods` lists them."""
    output_dir: Path = Path("runs")
    """Folder for run folders."""
    name: str = "commonsense"
    """Run name; the method is appended."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
    """Suffixes of the adapted layers' names; the default is the paper's."""
    decoder: PartOptions = field(default=PartOptions())
    cache: bool = True
    """Cache NoRA's outer factors on disk for the next run, in NORA_STUDIO_CACHE or the user's cache
    folder."""


@dataclass(frozen=True, kw_only=True)
class QuestionOptions:
    """How questions become batches."""

    epochs: float | None = None
    """Epochs, if `steps` is not given. None: 3; 1 on the embedded model."""
    cutoff: int = 256
    """Maximum tokens of a question with its answer; longer ones are truncated."""
    train_on_inputs: bool | None = None
    """Train on the questions' tokens too, as LLM-Adapters does. None: yes; on the embedded model
    only on the answers, so that such a small model learns them within minutes."""
    validation: int | None = None
    """Questions held out to measure the loss on. None: 120."""
    group_by_length: bool = False
    """Batch questions of similar length, with less padding."""
    packing: bool = False
    """Pack several questions into a row of `cutoff` tokens, each attending only to itself: no
    padding, and more questions per step."""


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

    Options can also be set in a TOML file: `--config FILE`. Flags override the file.
    """

    steps: int | None = None
    """Optimizer steps. None: computed from `epochs`."""
    batch_size: int | None = None
    """Rows per step, over all processes. None: 16."""
    schedule: Literal["constant", "linear", "cosine", "cosine-restarts", "polynomial"] | None = None
    """Learning-rate schedule after the warm-up. None: linear; constant for schedule-free."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    evaluate_every: int = 200
    """Steps between measurements of the loss on the validation questions; 0 for none."""
    keep_best: bool | None = None
    """Keep the checkpoint with the lowest measured loss too, whatever its age. None: if the loss is
    measured."""
    final: Literal["last", "best"] | None = None
    """Which step becomes the adapter: the last, or the one with the lowest measured loss. None:
    best, if the loss is measured."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    weight_decay: float = 0.0
    """Decoupled weight decay: each step subtracts this times the learning rate times the weight, or
    times its distance from the start if the adapter does not start at zero (NoRA, PiSSA, OLoRA)."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names in the order given."""
        return tuple(word.strip() for word in self.method.split(",") if word.strip())
