"""Seed files: a NoRA without its outer factors, which are regenerated from the base.

A layer's outer pair follows from the base's weight, so the file need not store it: what is left is
the trained inner pair, a few hundredths of the adapter. Singular vectors are not unique, though.
Signs are made canonical, but vectors of near-equal singular values may still rotate, and the base
may be another one or have another dtype. So the file carries probes of every layer's change,
computed from the factors it was trained with, and is refused if the regenerated factors disagree.

The inner pair's start is stored as sqrt(S) in float32, not regenerated: the change subtracts it,
and would be rounding noise instead of zero before training if it differed in the last bit.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nora_studio.adapters.files.card import AdapterCard, card_text, without_local_path
from nora_studio.adapters.files.embeddings import SEED_PREFIX, embedding_tensors
from nora_studio.adapters.files.identify import CARD_KEY, SEED_KEY
from nora_studio.adapters.files.outer import (
    TOLERANCE,
    Factors,
    core_of,
    deviation,
    probe,
    regenerate_outer,
)
from nora_studio.adapters.methods.peft_tuners import adapter_config, tuner_layers
from nora_studio.adapters.new_tokens import NewTokens
from nora_studio.adapters.peft_names import ADAPTER_NAME
from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig, NoraLinear
from nora_studio.runs.tensor_files import write_tensors

VERSION = 1
PRECISIONS = ("fp32", "fp16")
INNER = ("nora_inner_up", "nora_inner_down")
OUTER = ("nora_up", "nora_down")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Recipe:
    """How one part's outer factors are regenerated."""

    outer: str
    """As in `NoraConfig`."""
    outer_rank: int
    start: str
    """As in `NoraConfig`."""
    dtype: str
    """The base's dtype in training, as safetensors names it."""
    layers: list[list[str]]
    """For each inner rank, the names of its layers, in the order of the stacked tensors."""


@dataclass(frozen=True)
class SeedReport:
    """How exactly a seed file restores the adapter, as the worst layers' relative errors."""

    regeneration: float
    """Error from regenerating the outer factors."""
    rounding: float
    """Error from storing the inner factors' differences from the start in half precision."""


def write_seed(
    file: Path,
    parts: Mapping[str, nn.Module],
    card: AdapterCard,
    precision: str = "fp32",
    tokens: NewTokens | None = None,
) -> SeedReport:
    """Write the seed file of a NoRA that is on its base, after checking that it can be restored.

    Args:
        file: The file to write.
        parts: The base's modules; those with a NoRA on them are written.
        card: The adapter's.
        precision: "fp32" keeps the inner factors bit for bit. "fp16" halves the file: it rounds the
            factors' differences from the start, so that the start stays exact.
        tokens: New tokens, which are included in float32.

    Raises:
        StudioError: a part carries another method, its outer factors cannot be regenerated from
            this base, or the file cannot be written.
    """
    if precision not in PRECISIONS:
        expected = " or ".join(PRECISIONS)
        raise StudioError(f"--precision: a seed file takes {expected}; got {precision!r}.")
    tensors: dict[str, Tensor] = {}
    recipes: dict[str, dict[str, object]] = {}
    regeneration, rounding = 0.0, 0.0
    for part, module in parts.items():
        layers = {
            name: _check_nora(part, name, layer) for name, layer in tuner_layers(module).items()
        }
        if not layers:
            continue
        config: NoraConfig = adapter_config(module, ADAPTER_NAME)
        recipe = _recipe_for(part, config, layers)
        bases = {name: layer.get_base_layer() for name, layer in layers.items()}
        outer = regenerate_outer(part, bases, recipe.outer_rank, recipe.outer, DTYPES[recipe.dtype])
        for number, names in enumerate(recipe.layers):
            rows = []
            for name in names:
                row, off, rounded = _pack(f"{part}.{name}", layers[name], outer[name], precision)
                rows.append(row)
                regeneration, rounding = max(regeneration, off), max(rounding, rounded)
            for kind in rows[0]:
                tensors[f"{part}.{number}.{kind}"] = torch.stack([row[kind] for row in rows])
        recipes[part] = asdict(recipe)
    if tokens is not None:
        tensors |= {f"{SEED_PREFIX}{k}": rows for k, rows in embedding_tensors(tokens).items()}
    text = json.dumps({"version": VERSION, "parts": recipes}, sort_keys=True)
    write_tensors(file, tensors, {CARD_KEY: card_text(without_local_path(card)), SEED_KEY: text})
    return SeedReport(regeneration, rounding)


def _check_nora(part: str, name: str, layer: object) -> NoraLinear:
    if not isinstance(layer, NoraLinear):
        raise StudioError(
            f"only a NoRA can be written as a seed file; {part}.{name} has an adapter of another "
            "method. Export it with --to diffusers or --to kohya."
        )
    return layer


def _recipe_for(part: str, config: NoraConfig, layers: dict[str, NoraLinear]) -> Recipe:
    if config.outer == "activation":
        raise StudioError(
            f"{part}: activation-aware outer factors cannot be regenerated without the photos that "
            "the activations were recorded on. Export to diffusers or kohya, or use the adapter "
            "folder."
        )
    order: dict[int, list[str]] = {}
    for name, layer in layers.items():
        order.setdefault(layer.r[ADAPTER_NAME], []).append(name)
    dtype = next(iter(layers.values())).nora_up[ADAPTER_NAME].dtype  # pyright: ignore
    name = next(name for name, value in DTYPES.items() if value == dtype)
    return Recipe(config.outer, config.outer_rank, config.start, name, [*order.values()])


def _pack(
    name: str, layer: NoraLinear, outer: tuple[Tensor, Tensor], precision: str
) -> tuple[dict[str, Tensor], float, float]:
    """Return one layer's tensors for the file, and its regeneration and rounding errors."""
    trained = _factors_of(layer)
    start = _start_of(name, trained)
    scale = layer.nora_alpha[ADAPTER_NAME] / layer.r[ADAPTER_NAME]
    row = {key.removeprefix("nora_"): trained[key] for key in INNER}
    kept, rounding = trained, 0.0
    if precision == "fp16":
        row = {key.removeprefix("nora_"): _half_differences(name, trained, key) for key in INNER}
        kept = trained | inner_factors(row, start)
        core = core_of(trained)
        size = float(torch.linalg.matrix_norm(core))
        rounding = float(torch.linalg.matrix_norm(core_of(kept) - core)) / size if size else 0.0
    probes = probe(kept, scale)
    off = deviation(kept | dict(zip(OUTER, outer, strict=True)), scale, probes)
    if off > TOLERANCE:
        raise StudioError(
            f"{name}: the outer factors regenerated from this base change the update by {off:.2%}: "
            "the adapter was trained on other weights or another kind of outer factors. Export to "
            "diffusers or kohya instead."
        )
    check = torch.cat([probes, probes.new_tensor([scale])])
    return {**row, "start": start, "check": check}, off, rounding


def _factors_of(layer: NoraLinear) -> Factors:
    names = (*INNER, *OUTER, *(f"{name}_start" for name in INNER))
    return {name: getattr(layer, name)[ADAPTER_NAME].detach().cpu() for name in names}


def _start_of(name: str, factors: Factors) -> Tensor:  # (rank,)
    """Return the diagonal that both starts share; zeros if nothing is subtracted."""
    up, down = (factors[f"{key}_start"] for key in INNER)
    start = up.diagonal().clone()
    expected = full_starts(start, up.shape[0])
    if not (torch.equal(expected["nora_inner_up_start"], up) and torch.equal(up.T, down)):
        raise StudioError(
            f"{name} starts from factors other than its singular values, which a seed file cannot "
            "store. Export to diffusers or kohya instead."
        )
    return start


def full_starts(start: Tensor, outer_rank: int) -> Factors:
    """Return both starts as full matrices, from their common diagonal."""
    up = start.new_zeros(outer_rank, start.shape[0])
    up.diagonal().copy_(start)
    return {"nora_inner_up_start": up, "nora_inner_down_start": up.T.contiguous()}


def _half_differences(name: str, factors: Factors, key: str) -> Tensor:
    differences = (factors[key] - factors[f"{key}_start"]).half()
    if not bool(torch.isfinite(differences).all()):
        raise StudioError(f"{name} differs too much from its start for fp16. Use --precision fp32.")
    return differences


def inner_factors(row: Mapping[str, Tensor], start: Tensor) -> Factors:
    """Return the inner factors of a row of the file: as stored, or start plus differences."""
    starts = full_starts(start, row["inner_up"].shape[0])
    inner: Factors = {}
    for key in INNER:
        stored = row[key.removeprefix("nora_")]
        is_difference = stored.dtype == torch.float16
        inner[key] = starts[f"{key}_start"] + stored.to(start.dtype) if is_difference else stored
    return inner
