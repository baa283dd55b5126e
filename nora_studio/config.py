"""Options of the DreamBooth trainer: one frozen dataclass for flags, TOML files and forms."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nora_studio.data.options import PhotoOptions

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
    """Adapter method; several with commas ("nora,lora") train as twins on the same batches.
    `nora-studio methods` lists them."""
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
    weighting: Literal["none", "min-snr", "debiased"] = "none"
    """What a timestep counts in the loss: all the same, min-SNR (arXiv 2303.09556), or debiased
    (arXiv 2310.08442). A base with an EDM scheduler weights by itself."""
    snr_gamma: float | None = None
    """Gamma of min-SNR. None: 5."""
    noise_offset: float = 0.0
    """Shift of each channel's noise (0.05 is usual), for very dark or bright pictures; 0: none."""
    prior_weight: float = 0.0
    """Weight of prior preservation: as many pictures of the class, drawn by the base, are learned
    with every batch (1 is usual), so that the class stays what it was. 0: none."""
    class_prompt: str | None = None
    """What the class's pictures show. None: the prompt without [V]."""
    class_pictures: int | None = None
    """How many of them. None: 20 on the embedded model, 100 otherwise."""
    class_dir: Path | None = None
    """Folder they are kept in and used again from; your own pictures there count. None: one for
    each model and class prompt, beside the runs."""

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

    hold_out: int = 0
    """Photos kept out of the training, the last ones by name, to measure the loss on. With 0 the
    loss at fixed noise is measured on training photos."""
    evaluate_every: int = 50
    """Steps between such measurements; 0: none."""
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


def suggestion(word: str, known: Sequence[str]) -> str:
    """ " Did you mean ...?" when something known is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
