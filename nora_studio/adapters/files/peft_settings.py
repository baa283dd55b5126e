"""PEFT's `adapter_config.json`, checked before PEFT reads it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again
from nora_studio.runs.strict_json import parse_json

if TYPE_CHECKING:
    from peft import PeftConfig

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_RANK = 1 << 16
"""Larger than any layer; the tensors' shapes show whether a rank fits its layer."""
_RANKS = ("r", "init_r", "target_r", "outer_rank")
_ALPHAS = ("lora_alpha", "alpha", "randlora_alpha")


def config_of(settings: Mapping[str, Any], folder: Path) -> PeftConfig:
    """Create PEFT's configuration from one part's settings.

    Args:
        settings: As `read_settings` returns them.
        folder: The folder they were read from, for messages.

    Raises:
        StudioError: PEFT does not accept them.
    """
    from peft import PeftConfig

    try:
        # A copy: PEFT keeps the values, and changes some of them when layers are attached.
        return PeftConfig.from_peft_type(**copy.deepcopy(dict(settings)))
    except (ValueError, TypeError, KeyError) as error:
        raise StudioError(f"{folder} cannot be read: {error}. {get_again(folder)}") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the configuration's values, as written.

    Raises:
        StudioError: the file is missing or damaged, its kind of adapter is not supported, or it
            states a rank or an alpha that no adapter has.
    """
    file = folder / CONFIG
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
        _check(values)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = error.remedy if isinstance(error, _UnsupportedError) else get_again(file)
        raise StudioError(f"{file} cannot be read: {reason}. {remedy.rstrip('.')}.") from error
    values.pop("runtime_config", None)  # Not part of the adapter; PEFT leaves it out, too.
    return values


class _UnsupportedError(ValueError):
    """A valid configuration of an adapter that is not supported."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


def _check(values: dict[str, Any]) -> None:
    kind = values.get("peft_type")
    # Only kinds that the project writes: X-LoRA would load adapters from any path, even pickles.
    kinds = {method.tuner.kind for method in METHODS.values()}
    if kind not in kinds:
        raise _UnsupportedError(
            f"expected one of {', '.join(sorted(kinds))} as peft_type; got {kind!r}",
            "Use an adapter of one of these kinds",
        )
    if values.get("megatron_config") is not None:  # PEFT would import a module of any name for it.
        raise _UnsupportedError(
            "it sets megatron_config, which is not supported",
            "Use an adapter that was trained without Megatron",
        )
    least = 0 if kind == "OFT" else 1  # OFT may have a block size instead of a rank.
    ranks = {name: values[name] for name in _RANKS if values.get(name) is not None}
    if kind != "ADALORA":  # AdaLoRA stores there what it has pruned.
        ranks |= values.get("rank_pattern") or {}
    for name, rank in ranks.items():
        if type(rank) is not int or not least <= rank <= MAX_RANK:
            raise ValueError(f"{name} should be a rank of {least} to {MAX_RANK}; got {rank!r}")
    alphas = {name: values[name] for name in _ALPHAS if values.get(name) is not None}
    for name, alpha in (alphas | (values.get("alpha_pattern") or {})).items():
        if type(alpha) not in (int, float) or not alpha > 0:
            raise ValueError(f"{name} should be a positive alpha; got {alpha!r}")
