"""Portable LoRA files, with diffusers' or Kohya's keys."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from torch import Tensor, nn

from nora_studio.adapters.files.adapter_file import AdapterFile
from nora_studio.adapters.files.identify import OTHER_BASES, SDXL, Identity
from nora_studio.adapters.files.names import LayerNames
from nora_studio.adapters.files.updates import Update, Updates
from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again
from nora_studio.runs.strict_json import parse_json
from nora_studio.runs.tensor_files import write_tensors
from nora_studio.runs.tensor_headers import format_tensor_name

STYLES = ("diffusers", "kohya")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_ENDINGS = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".alpha": "alpha",
}
# Diffusers before 0.20: "...attn1.processor.to_out_lora.up.weight".
_OLD_DIFFUSERS = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora\.(up|down)\.weight$")
_DIFFUSERS_METADATA = "lora_adapter_metadata"


def portable_tensors(
    updates: Updates, names: LayerNames, style: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the tensors of a portable file.

    Each update's scale is folded into its factors, so alpha is the rank and the scale 1, for tools
    that read alpha and for those that do not.

    Args:
        updates: Canonical, with one rank for each part (`updates.with_rank`).
        names: The names of the base's layers.
        style: "diffusers" or "kohya".
        dtype: The tensors' dtype.

    Raises:
        StudioError: a layer has no name in that style, or a number does not fit the dtype.
    """
    tensors: dict[str, Tensor] = {}
    for part, layers in updates.items():
        for name, update in layers.items():
            up, down = round_factors(update, dtype, f"{part}.{name}")
            if style == "kohya":
                key = names.kohya(part, name)
                tensors[f"{key}.lora_up.weight"] = up
                tensors[f"{key}.lora_down.weight"] = down
                tensors[f"{key}.alpha"] = torch.tensor(float(update.rank), dtype=dtype)
            else:
                key = names.diffusers(part, name)
                tensors[f"{key}.lora_B.weight"] = up
                tensors[f"{key}.lora_A.weight"] = down
    return tensors


def round_factors(update: Update, dtype: torch.dtype, layer: str) -> tuple[Tensor, Tensor]:
    """Return both factors in a file's dtype.

    Raises:
        StudioError: a number is too large for it.
    """
    up, down = update.up.to(dtype).contiguous(), update.down.to(dtype).contiguous()
    if not bool(torch.isfinite(up).all() and torch.isfinite(down).all()):
        raise StudioError(
            f"{layer} holds numbers too large for {dtype}. Export with --precision bf16 or fp32."
        )
    return up, down


def write_portable(
    file: Path,
    updates: Updates,
    names: LayerNames,
    style: str,
    dtype: torch.dtype,
    metadata: Mapping[str, str],
) -> Updates:
    """Write a portable LoRA.

    Returns:
        The updates as the file holds them, rounding included.

    Raises:
        StudioError: for the same reasons as `portable_tensors`, or the file cannot be written.
    """
    write_tensors(file, portable_tensors(updates, names, style, dtype), metadata)
    return {
        part: {
            name: Update(update.up.to(dtype).double(), update.down.to(dtype).double())
            for name, update in layers.items()
        }
        for part, layers in updates.items()
    }


def read_portable(
    adapter: AdapterFile, parts: dict[str, nn.Module]
) -> dict[str, tuple[PeftConfig, dict[str, Tensor]]]:
    """Read a LoRA file of any tool for a base, as PEFT's configuration and tensors of each part.

    Args:
        adapter: A file in diffusers' or Kohya's keys.
        parts: The base's modules.

    Raises:
        StudioError: the file is of another kind, is damaged, or names layers that the base lacks.
    """
    adapter.check_loadable()
    file = adapter.path
    places = LayerNames(parts).layers_by_key()
    layers: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in adapter.tensors().items():
        stem, role = split_key(key)
        place = places.get(stem)
        if place is None or role is None:
            raise _unknown_key(file, key, adapter.identity, role is not None)
        layers.setdefault(place, {})[role] = tensor
    settings = _diffusers_settings(file, adapter.metadata)
    states: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
    for (part, name), factors in layers.items():
        states.setdefault(part, {})[name] = _factors(file, part, name, factors, settings)
    return {part: _as_peft(factors) for part, factors in states.items()}


def _unknown_key(file: Path, key: str, identity: Identity, is_role_known: bool) -> StudioError:
    """Return an error that says why a tensor belongs to no layer: its ending, base or spelling."""
    hint = f"See what it holds with `nora-studio inspect {file}`"
    if not is_role_known:
        return StudioError(
            f"{file} holds {format_tensor_name(key)}, whose ending is not that of a LoRA's factor. "
            f"{hint}, and get it as a LoRA in diffusers' or Kohya's keys."
        )
    if identity.base in OTHER_BASES:
        return StudioError(
            f"{file} holds {format_tensor_name(key)}, which names no layer of this model: it was "
            f"made for {identity.base}. Use it with that model, or get one that was made for "
            f"{SDXL}."
        )
    return StudioError(
        f"{file} holds {format_tensor_name(key)}, which names no layer of this model: it was made "
        f"for another one, or its layers are spelled in another way. {hint}, or give its base as "
        "--model."
    )


def split_key(key: str) -> tuple[str, str | None]:
    """Return a key's layer and the tensor's role in it; None if the ending is unknown."""
    old = _OLD_DIFFUSERS.search(key)
    if old:
        layer = "to_out.0" if old[1] == "to_out" else old[1]
        return f"{key[: old.start()]}.{layer}", old[2]
    for ending, role in _ENDINGS.items():
        if key.endswith(ending):
            return key.removesuffix(ending), role
    return key, None


def _factors(
    file: Path,
    part: str,
    name: str,
    factors: dict[str, Tensor],
    settings: dict[str, dict[str, Any]],
) -> tuple[Tensor, Tensor]:
    """Return one layer's `up` and `down` in float32, with the scale folded into `up`."""
    missing = {"up", "down"} - factors.keys()
    if missing:
        raise StudioError(
            f"{file} lacks the {missing.pop()} factor of {part}.{name}. {get_again(file)}"
        )
    up, down = factors["up"].float(), factors["down"].float()
    if (
        up.ndim not in (2, 4)
        or up.ndim != down.ndim
        or up.shape[1] != down.shape[0]
        or not up.numel()
    ):
        raise StudioError(
            f"{file}: the factors of {part}.{name} do not multiply: {tuple(up.shape)} by "
            f"{tuple(down.shape)}. {get_again(file)}"
        )
    rank = down.shape[0]
    scale = _scale(settings.get(part, {}), name, rank)
    if "alpha" in factors:
        alpha = factors["alpha"]
        if alpha.numel() != 1:
            raise StudioError(
                f"{file}: alpha of {part}.{name} should be one number; got a tensor of shape "
                f"{tuple(alpha.shape)}. {get_again(file)}"
            )
        scale = alpha_scale(file, f"{part}.{name}", float(alpha), rank)
    check_rank(file, f"{part}.{name}", up, down)
    scaled = up if scale == 1 else up * scale
    if not bool(torch.isfinite(scaled).all()):
        raise StudioError(
            f"{file}: alpha of {part}.{name} scales it by {scale:.3g}, and the result is not "
            f"finite. {get_again(file)}"
        )
    return scaled, down


def alpha_scale(file: Path, layer: str, alpha: float, rank: int) -> float:
    """Return alpha over rank.

    Raises:
        StudioError: alpha is not positive and finite.
    """
    if not 0 < alpha < math.inf:
        raise StudioError(
            f"{file}: alpha of {layer} should be positive and finite; got {alpha}. "
            f"{get_again(file)}"
        )
    return alpha / rank


def check_rank(file: Path, layer: str, up: Tensor, down: Tensor) -> None:
    """Refuse a rank that no layer of its shape can need, since all layers are padded to it.

    Raises:
        StudioError: it is larger than the layer's inputs and outputs together.
    """
    rank, most = down.shape[0], up.shape[0] + down[0].numel()
    if rank > most:
        raise StudioError(
            f"{file}: the rank of {layer} should be at most {most}, the number of its inputs and "
            f"outputs; got {rank}. {get_again(file)}"
        )


def _scale(settings: dict[str, Any], name: str, rank: int) -> float:
    """Return the scale by diffusers' metadata: alpha / rank, / sqrt(rank) for rsLoRA, or 1."""
    if "lora_alpha" not in settings:
        return 1.0
    alpha = float(settings["lora_alpha"])
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        # As PEFT matches them, but not as a regular expression, since the file is not trusted.
        if f".{name}".endswith(f".{pattern.lstrip('^')}"):
            alpha = float(value)
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _diffusers_settings(file: Path, metadata: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Read each part's LoRA configuration from the metadata that diffusers writes."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for key, value in parse_json(metadata.get(_DIFFUSERS_METADATA, "{}")).items():
            part, _, option = key.partition(".")
            found.setdefault(part, {})[option] = value
        for settings in found.values():
            patterns = dict(settings.get("alpha_pattern") or {})
            for alpha in (settings.get("lora_alpha", 1), *patterns.values()):
                if not float(alpha) > 0:
                    raise ValueError(f"it holds the alpha {alpha!r}, which should be positive")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StudioError(
            f"{file}: its {_DIFFUSERS_METADATA} cannot be read: {error}. {get_again(file)}"
        ) from error
    return found


def _as_peft(
    factors: dict[str, tuple[Tensor, Tensor]],
) -> tuple[PeftConfig, dict[str, Tensor]]:
    """Return one part as a plain LoRA of one rank; lower ranks are padded with zeros."""
    rank = max(down.shape[0] for _, down in factors.values())
    state: dict[str, Tensor] = {}
    for name, (up, down) in factors.items():
        short = rank - down.shape[0]
        if short:
            up = torch.cat([up, up.new_zeros(up.shape[0], short, *up.shape[2:])], dim=1)
            down = torch.cat([down, down.new_zeros(short, *down.shape[1:])])
        state[f"{name}.lora_A.weight"] = down.contiguous()
        state[f"{name}.lora_B.weight"] = up.contiguous()
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(factors))
    config.inference_mode = True
    return config, state
