"""The configurations of this package's tuners, as PEFT stores them in `adapter_config.json`."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from peft.config import PeftConfig
from peft.utils import PeftType

from nora_studio.errors import StudioError

DECOMPOSITIONS = ("pissa", "olora")


@dataclass
class TunerConfig(PeftConfig):
    """Settings that all methods of this package have.

    A saved config belongs to a file that holds every factor, so it is read back with
    `init_weights=False` and loading needs neither a decomposition nor a seed.
    """

    r: int = 8
    """Rank of the update, 1 to min(out_features, in_features) of every target."""
    alpha: float | None = None
    """The update is scaled by alpha / r; None means r, a scale of 1."""
    dropout: float = 0.0
    """Probability of dropping an input channel of the update while training, 0 to below 1."""
    target_modules: list[str] | set[str] | str | None = None
    """Names (whole or endings) of the linear layers to adapt, or one regular expression."""
    exclude_modules: list[str] | set[str] | str | None = None
    """Names or one regular expression of layers to leave alone."""
    modules_to_save: list[str] | None = None
    """Other modules that are trained in full and saved with the adapter."""
    layers_to_transform: list[int] | int | None = None
    """Indices of the blocks to adapt; None means all."""
    layers_pattern: list[str] | str | None = None
    """Name of the list of blocks, where `layers_to_transform` alone is ambiguous."""
    init_weights: bool = True
    """False leaves frozen factors NaN until a checkpoint fills them, so missing ones show up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, set(getattr(self, name)))
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise StudioError(f"rank must be a whole number of 1 or more; got {self.r!r}.")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise StudioError(f"alpha must be positive and finite; got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise StudioError(f"dropout must be at least 0 and below 1; got {self.dropout}.")

    def to_dict(self) -> dict[str, Any]:
        """Return what `save_pretrained` writes: without initialisation, and names in order."""
        values = asdict(replace(self, init_weights=False))
        for name in ("target_modules", "exclude_modules"):
            # A set's order differs from process to process.
            if isinstance(values[name], set):
                values[name] = sorted(values[name])
        return values


@dataclass
class LoraXsConfig(TunerConfig):
    """Configuration of LoRA-XS, arXiv:2405.17604."""

    start_std: float = 1e-5
    """Standard deviation of the trained matrix's start; the default is the paper's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["LORA_XS"]


@dataclass
class DyloraConfig(TunerConfig):
    """Configuration of DyLoRA, arXiv:2210.07558."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["DYLORA"]


@dataclass
class TiedLoraConfig(TunerConfig):
    """Configuration of Tied-LoRA, arXiv:2311.09578."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["TIED_LORA"]


@dataclass
class DecomposedConfig(TunerConfig):
    """Configuration of a LoRA that starts from a part of the weight, which is subtracted again.

    PiSSA (arXiv:2404.02948) or OLoRA (arXiv:2406.01775).
    """

    start: str = "pissa"
    """"pissa": the leading singular vectors. "olora": the leading columns of a QR."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["DECOMPOSED_LORA"]
        if self.start not in DECOMPOSITIONS:
            raise StudioError(
                f"start must be one of {', '.join(DECOMPOSITIONS)}; got {self.start!r}."
            )
