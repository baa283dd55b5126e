"""Options of the DreamBooth trainer: one frozen dataclass for flags, TOML files and forms."""

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nora_studio.errors import StudioError
from nora_studio.methods import METHODS, method_named
from nora_studio.prompts import PLACEHOLDER


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
class DreamboothOptions:
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
    captions: bool = True
    """A photo with a prompt of its own (3.txt beside 3.jpg, or metadata.jsonl) learns that one.
    Words for what else is in the picture keep it from being learned as the subject."""
    trigger: str | None = None
    """Rare word that [V] becomes; one token in both tokenizers. None: chosen."""
    resolution: int | None = None
    """Side of the training pictures in pixels, a multiple of 8. None: the model's own."""

    steps: int | None = None
    """Optimizer steps. None: recommended for the model."""
    batch_size: int | None = None
    """Photos a step, over all processes. None: recommended for the model."""
    seed: int = 0
    """Of data order, noise, timesteps and adapter initialisation."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the frozen base; adapters train in fp32. auto: bf16 on a GPU, fp32 on a CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""

    targets: Literal["attention", "attention+feedforward"] | None = None
    """Which linear layers are adapted. None: attention; feed-forward too on the embedded model."""
    unet: PartOptions = PartOptions()
    text_encoder: PartOptions = PartOptions()
    text_encoder_2: PartOptions = PartOptions()
    outer: Literal["svd", "randomized", "activation"] = "svd"
    """How NoRA finds its outer factors: exactly, faster, or along the first batch's activations."""
    start: Literal["difference", "paper"] = "difference"
    """NoRA's start: exactly the base, or as the paper prints it, top directions doubled."""
    dropout: float = 0.0
    """Dropout on the adapters' input, 0 to below 1."""
    lora_plus_ratio: float | None = None
    """LoRA+: how many times faster the output-side factors learn. None: the paper's 16."""
    override: tuple[str, ...] = ()
    """Options for one twin alone: METHOD.PART.OPTION=VALUE, such as lora.unet.rank=16."""

    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning-rate schedule after the warm-up."""
    warmup_steps: int = 10
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """AdamW's decoupled weight decay."""
    max_gradient_norm: float = 1.0
    """Gradients are clipped to this norm, per run."""
    snr_gamma: float | None = None
    """Min-SNR loss weighting with this gamma (5 is usual). None: every timestep weighs the same."""

    max_timestep: int | None = None
    """Train on timesteps below this, 1 to the schedule's length. Layout and background are settled
    at the high ones, so leaving them out keeps the photos' places from being learned. None: all."""

    sample_prompt: str | None = None
    """Prompt of the fixed-seed samples, [V] allowed. None: `prompt`."""
    sample_every: int = 100
    """Steps between samples; 0: only the base's picture and the final one."""
    sample_seed: int = 0
    """Seed of the samples' starting noise."""
    sample_steps: int = 25
    """Inference steps of a sample."""
    guidance: float = 5.0
    """Classifier-free guidance of a sample."""

    log_every: int = 10
    """Steps between lines of log.jsonl; losses are read back from the device only then."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints kept, newest first; at least 1."""
    resume: bool = False
    """Go on from the newest checkpoint of the run of that name."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names in the order given."""
        return tuple(word.strip() for word in self.method.split(",") if word.strip())

    @property
    def run_name(self) -> str:
        """Stem of the run folders' names."""
        return self.name or Path(self.instance_dir).resolve().name


_STEPS = {"sdxl": 500, "mini": 120}
_TARGETS: dict[str, Any] = {"sdxl": "attention", "mini": "attention+feedforward"}
_BATCH = {"sdxl": 4, "mini": 3}


def with_recommended(options: DreamboothOptions) -> DreamboothOptions:
    """Fill in the steps and the batch that suit the model, and check what can be checked early.

    Raises:
        StudioError: a value is out of its range, or the prompt lacks [V].
    """
    family = "mini" if options.model == "embedded" else "sdxl"
    options = dataclasses.replace(
        options,
        steps=_STEPS[family] if options.steps is None else options.steps,
        batch_size=_BATCH[family] if options.batch_size is None else options.batch_size,
        targets=options.targets or _TARGETS[family],
    )
    if PLACEHOLDER.lower() not in options.prompt.lower():
        raise StudioError(
            f"--prompt: expected {PLACEHOLDER} where the subject's name goes, as in \"a photo of a "
            f'{PLACEHOLDER} mug"; got {options.prompt!r}.'
        )
    positive = ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints",
                "sample_steps", "max_gradient_norm")  # fmt: skip
    for name in positive:
        check_option(getattr(options, name) > 0, name, "a value above 0", getattr(options, name))
    for name in ("sample_every", "warmup_steps", "weight_decay", "guidance"):
        check_option(getattr(options, name) >= 0, name, "0 or more", getattr(options, name))
    check_option(0 <= options.dropout < 1, "dropout", "0 to below 1", options.dropout)
    gamma = options.snr_gamma
    check_option(gamma is None or gamma > 0, "snr_gamma", "a value above 0", gamma)
    check_option(bool(options.methods), "method", "at least one method", options.method)
    check_option(
        len(set(options.methods)) == len(options.methods), "method", "each once", options.method
    )
    if options.resolution is not None:
        good = options.resolution >= 64 and options.resolution % 8 == 0
        check_option(good, "resolution", "a multiple of 8, at least 64", options.resolution)
    _check_methods(options)
    if not any(getattr(options, part).train for part in PART_FIELDS):
        raise StudioError("every part is switched off (--unet.no-train ...); train at least one.")
    return options


def _check_methods(options: DreamboothOptions) -> None:
    """Refuse unknown methods, and options that no method of the run has."""
    settings: set[str] = set()
    for method in options.methods:
        settings |= method_named(method).settings
    if "lora+" in options.methods:
        settings.add("lora_plus_ratio")
    usual = {"outer": "svd", "start": "difference", "dropout": 0.0, "lora_plus_ratio": None}
    for name, value in usual.items():
        if getattr(options, name) != value and name not in settings:
            raise foreign_option(name.replace("_", "-"), name, options.method)
    ratio = options.lora_plus_ratio
    check_option(ratio is None or ratio >= 1, "lora_plus_ratio", "1 or more", ratio)


def foreign_option(flag: str, setting: str, methods: str) -> StudioError:
    """The error of an option that the given methods do not have."""
    owners = [name for name, method in METHODS.items() if setting in method.settings] or ["lora+"]
    return StudioError(
        f"--{flag}: no option of --method {methods}, but of {', '.join(owners)}. Leave it out."
    )


PART_FIELDS = ("unet", "text_encoder", "text_encoder_2")


def check_option(good: bool, name: str, expected: str, value: object) -> None:
    """Raise a StudioError that names the flag, unless the value is good."""
    if not good:
        flag = name.replace("_", "-")
        raise StudioError(f"--{flag}: expected {expected}; got {value!r}.")


def suggestion(word: str, known: Sequence[str]) -> str:
    """ " Did you mean ...?" when something known is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
