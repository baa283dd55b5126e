"""PEFT's `adapter_config.json`, checked before PEFT obeys it."""

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
MOST_RANK = 1 << 16
"""Beyond the width of any layer; whether a rank fits its layer is told by the tensors' shapes."""
_RANKS = ("r", "init_r", "target_r", "outer_rank")
_ALPHAS = ("lora_alpha", "alpha", "randlora_alpha")


def config_of(settings: Mapping[str, Any], folder: Path) -> PeftConfig:
    """Make PEFT's configuration of one part's settings.

    Args:
        settings: As `read_settings` gave them.
        folder: They were read from, for the message.

    Raises:
        StudioError: PEFT does not take them.
    """
    from peft import PeftConfig

    try:
        # A copy: PEFT keeps what it is given, and changes some of it when layers are attached.
        return PeftConfig.from_peft_type(**copy.deepcopy(dict(settings)))
    except (ValueError, TypeError, KeyError) as error:
        raise StudioError(f"{folder} cannot be read: {error}. {get_again(folder)}") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """The configuration's values, as they are written.

    Raises:
        StudioError: the file is missing or damaged, is of a kind that is not read here, or states a
            rank or an alpha that no adapter has.
    """
    file = folder / CONFIG
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
        _check(values)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "Get one of these kinds" if isinstance(error, _OtherKind) else get_again(file)
        raise StudioError(f"{file} cannot be read: {reason}. {remedy.rstrip('.')}.") from error
    values.pop("runtime_config", None)  # It is no part of an adapter; PEFT leaves it out, too.
    return values


class _OtherKind(ValueError):
    """An adapter of a method that is not read here."""


def _check(values: dict[str, Any]) -> None:
    kind = values.get("peft_type")
    # What the project writes. Others (X-LoRA) would load adapters of any path, pickles among them.
    kinds = {method.tuner.kind for method in METHODS.values()}
    if kind not in kinds:
        raise _OtherKind(f"expected one of {', '.join(sorted(kinds))} as peft_type; got {kind!r}")
    if values.get("megatron_config") is not None:  # PEFT would import a module of any name for it.
        raise ValueError("expected no megatron_config")
    least = 0 if kind == "OFT" else 1  # Its blocks' size may stand in the place of a rank.
    ranks = {name: values[name] for name in _RANKS if values.get(name) is not None}
    if kind != "ADALORA":  # Which keeps what it has pruned under that name.
        ranks |= values.get("rank_pattern") or {}
    for name, rank in ranks.items():
        if type(rank) is not int or not least <= rank <= MOST_RANK:
            raise ValueError(f"{name} should be a rank of {least} to {MOST_RANK}; got {rank!r}")
    alphas = {name: values[name] for name in _ALPHAS if values.get(name) is not None}
    for name, alpha in (alphas | (values.get("alpha_pattern") or {})).items():
        if type(alpha) not in (int, float) or not alpha > 0:
            raise ValueError(f"{name} should be a positive alpha; got {alpha!r}")
