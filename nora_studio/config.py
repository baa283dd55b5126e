"""Options of the DreamBooth trainer: one frozen dataclass for flags, TOML files and forms."""

import dataclasses
import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from nora_studio.data.options import PhotoOptions, check_photo_options
from nora_studio.errors import StudioError
from nora_studio.prompts import PLACEHOLDER


@dataclass(frozen=True)
class PartOptions:
    """One of SDXL's three adapted modules. None means the method's recommended value."""

    train: bool = True
    """Whether this part gets an adapter at all."""
    rank: int | None = None
    """Rank of the trained factors (NoRA's inner rank), at least 1."""
    outer_rank: int | None = None
    """NoRA's frozen outer rank, at least `rank`. Only NoRA has one."""
    alpha: float | None = None
    """The adapter's scale is alpha / rank. None: alpha = rank, a scale of 1."""
    learning_rate: float | None = None
    """Peak learning rate of this part."""


@dataclass(frozen=True)
class DreamboothOptions(PhotoOptions):
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
    """Adapter method; several with commas ("nora,lora") train as twins on the same batches."""
    output_dir: Path = Path("runs")
    """Where run folders go."""
    name: str | None = None
    """Run name; the method is appended. None: the name of the photo folder."""
    trigger: str | None = None
    """Rare word that [V] becomes; one token in both tokenizers. None: chosen."""

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
    outer: Literal["svd", "randomized"] = "svd"
    """How NoRA finds its outer factors: exactly, or far faster at SDXL's size."""
    dropout: float = 0.0
    """Dropout on the adapters' input, 0 to below 1."""
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


@dataclass(frozen=True)
class PartSettings:
    """One part of one run, resolved: no None left but alpha's, which means the rank."""

    rank: int
    outer_rank: int | None
    alpha: float | None
    learning_rate: float


_SDXL = {
    # The paper's section 4.3: learning rate 1e-4, batch 4, 500 steps.
    "nora": {"unet": (8, 64, 1e-4), "text": (8, 64, 5e-5)},
    "lora": {"unet": (16, None, 1e-4), "text": (16, None, 5e-5)},
}
_MINI = {
    # From the sweep that evaluation/sweep.py records: so small a UNet binds a subject far better
    # with its feed-forward layers adapted too.
    "nora": {"unet": (8, 48, 3e-3), "text": (8, 48, 1e-3)},
    "lora": {"unet": (8, None, 3e-3), "text": (8, None, 5e-4)},
}
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
        _check(getattr(options, name) > 0, name, "a value above 0", getattr(options, name))
    for name in ("sample_every", "warmup_steps", "weight_decay", "guidance"):
        _check(getattr(options, name) >= 0, name, "0 or more", getattr(options, name))
    _check(0 <= options.dropout < 1, "dropout", "0 to below 1", options.dropout)
    gamma = options.snr_gamma
    _check(gamma is None or gamma > 0, "snr_gamma", "a value above 0", gamma)
    _check(bool(options.methods), "method", "at least one method", options.method)
    _check(len(set(options.methods)) == len(options.methods), "method", "each once", options.method)
    check_photo_options(options)
    if options.outer != "svd" and "nora" not in options.methods:
        raise StudioError(f"--outer: only nora has outer factors; got --method {options.method}.")
    if not any(getattr(options, part).train for part in _PART_FIELDS):
        raise StudioError("every part is switched off (--unet.no-train ...); train at least one.")
    return options


_PART_FIELDS = ("unet", "text_encoder", "text_encoder_2")


def _check(good: bool, name: str, expected: str, value: object) -> None:
    if not good:
        flag = name.replace("_", "-")
        raise StudioError(f"--{flag}: expected {expected}; got {value!r}.")


def part_settings(options: DreamboothOptions, method: str) -> dict[str, PartSettings]:
    """The settings of each trained part for one method, overrides applied.

    Raises:
        StudioError: an override names nothing that exists, or an option does not fit the method.
    """
    table = _MINI if options.model == "embedded" else _SDXL
    recommended = table.get(method, table["lora"])
    settings: dict[str, PartSettings] = {}
    for part in _PART_FIELDS:
        part_options = _with_overrides(options, method, part)
        if not part_options.train:
            continue
        rank, outer_rank, learning_rate = recommended["unet" if part == "unet" else "text"]
        nested = "nora" in options.methods
        if part_options.outer_rank is not None and not nested:
            raise StudioError(
                f"--{part.replace('_', '-')}.outer-rank: only nora has an outer rank; got it with "
                f"--method {options.method}. Leave it out."
            )
        resolved = PartSettings(
            rank=rank if part_options.rank is None else part_options.rank,
            outer_rank=None
            if method != "nora"
            else (outer_rank if part_options.outer_rank is None else part_options.outer_rank),
            alpha=part_options.alpha,
            learning_rate=learning_rate
            if part_options.learning_rate is None
            else part_options.learning_rate,
        )
        _check(resolved.rank >= 1, f"{part}.rank", "at least 1", resolved.rank)
        _check(
            resolved.learning_rate > 0, f"{part}.learning_rate", "above 0", resolved.learning_rate
        )
        alpha = resolved.alpha
        _check(alpha is None or alpha > 0, f"{part}.alpha", "above 0", alpha)
        settings[part] = resolved
    if not settings:
        raise StudioError(f"{method}: every part is switched off; train at least one.")
    return settings


def _with_overrides(options: DreamboothOptions, method: str, part: str) -> PartOptions:
    part_options: PartOptions = getattr(options, part)
    hints = get_type_hints(PartOptions)
    for entry in options.override:
        key, equals, text = entry.partition("=")
        pieces = key.split(".")
        if not equals or len(pieces) != 3:
            raise StudioError(
                f"--override: expected METHOD.PART.OPTION=VALUE; got {entry!r} "
                "(an example: lora.unet.rank=16)."
            )
        for piece, known in zip(pieces, (options.methods, _PART_FIELDS, tuple(hints))):
            if piece.replace("-", "_") not in known:
                raise StudioError(
                    f"--override {entry!r}: {piece!r} is not one of {', '.join(known)}."
                    + suggestion(piece, known)
                )
        if pieces[0] == method and pieces[1].replace("-", "_") == part:
            option = pieces[2].replace("-", "_")
            part_options = dataclasses.replace(
                part_options, **{option: _parse_value(entry, text, hints[option])}
            )
    return part_options


def _parse_value(entry: str, text: str, hint: Any) -> bool | int | float:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise StudioError(f"--override {entry!r}: {text!r} is no number or true/false.") from error
    wanted = bool if hint is bool else int if "int" in str(hint) else float
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise StudioError(f"--override {entry!r}: expected {wanted.__name__}; got {text!r}.")
    return value


def suggestion(word: str, known: Sequence[str]) -> str:
    """ " Did you mean ...?" when something known is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
