"""Read seed files: regenerate the outer factors from the base, and check them."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from nora_studio.adapters.files.adapter_file import AdapterFile
from nora_studio.adapters.files.identify import SEED_KEY
from nora_studio.adapters.files.outer import PROBES, TOLERANCE, deviation, regenerate_outer
from nora_studio.adapters.files.peft_settings import MAX_RANK
from nora_studio.adapters.files.seed import (
    DTYPES,
    OUTER,
    VERSION,
    Recipe,
    full_starts,
    inner_factors,
)
from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig
from nora_studio.nora.config import STARTS
from nora_studio.runs.remedies import get_again
from nora_studio.runs.strict_json import parse_json

_LAYER_NAME = re.compile(r"\w+(\.\w+)*")


def read_seed(
    adapter: AdapterFile, parts: Mapping[str, nn.Module]
) -> dict[str, tuple[NoraConfig, dict[str, Tensor]]]:
    """Read a seed file with its base, as PEFT's configuration and all tensors of each part.

    Raises:
        StudioError: the file is damaged, or this base does not reproduce the update.
    """
    recipes = read_recipes(adapter)
    tensors = adapter.tensors()
    loaded: dict[str, tuple[NoraConfig, dict[str, Tensor]]] = {}
    for part, recipe in recipes.items():
        adapter.check_part(part, parts)
        rows = unstack_layers(adapter.path, part, recipe, tensors)
        loaded[part] = _regenerate(adapter.path, part, parts[part], recipe, rows)
    return loaded


def read_recipes(adapter: AdapterFile) -> dict[str, Recipe]:
    """Read the recipe of each part.

    Raises:
        StudioError: a recipe is missing, damaged or of another version.
    """
    try:
        content = parse_json(adapter.metadata[SEED_KEY])
        if content["version"] != VERSION:
            version = content["version"]
            raise _OtherVersion(f"it has version {version!r}; this release reads {VERSION}")
        recipes = {part: Recipe(**values) for part, values in content["parts"].items()}
        for recipe in recipes.values():
            names = [name for group in recipe.layers for name in group]
            if not names or not all(_LAYER_NAME.fullmatch(name) for name in names):
                raise ValueError("the names of its layers are missing or malformed")
            if len(set(names)) < len(names) or recipe.dtype not in DTYPES:
                raise ValueError(f"a layer is repeated, or its dtype is unknown: {recipe.dtype!r}")
            if type(recipe.outer_rank) is not int or not 1 <= recipe.outer_rank <= MAX_RANK:
                raise ValueError(f"its outer rank is out of range: {recipe.outer_rank!r}")
            if recipe.start not in STARTS or recipe.outer not in ("svd", "randomized"):
                raise ValueError(
                    f"unknown start or outer factors: {recipe.start!r}, {recipe.outer!r}"
                )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, StudioError):
            raise
        file = adapter.path
        remedy = "Update nora-studio." if isinstance(error, _OtherVersion) else get_again(file)
        raise StudioError(f"{file}: its recipe cannot be read: {error}. {remedy}") from error
    return recipes


class _OtherVersion(ValueError):
    """A seed file of another version of the format."""


def unstack_layers(
    file: Path, part: str, recipe: Recipe, tensors: dict[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return every layer's tensors, taken from the stacks, after checking their shapes."""
    rows: dict[str, dict[str, Tensor]] = {}
    for number, names in enumerate(recipe.layers):
        kinds = ("inner_up", "inner_down", "start", "check")
        stacks = {kind: tensors.get(f"{part}.{number}.{kind}") for kind in kinds}
        found = {key: None if t is None else tuple(t.shape) for key, t in stacks.items()}
        rank = (found["start"] or (0, 0))[-1]
        expected = {
            "inner_up": (len(names), recipe.outer_rank, rank),
            "inner_down": (len(names), rank, recipe.outer_rank),
            "start": (len(names), rank),
            "check": (len(names), PROBES + 1),
        }
        if found != expected or not 1 <= rank <= recipe.outer_rank:
            raise StudioError(
                f"{file} is damaged: the tensors of {part} should have shapes {expected}; got "
                f"{found}. {get_again(file)}"
            )
        for index, name in enumerate(names):
            scale = float(stacks["check"][index, -1])  # pyright: ignore[reportOptionalSubscript]
            if not scale > 0:
                raise StudioError(
                    f"{file} is damaged: the scale of {part}.{name} in {part}.{number}.check "
                    f"should be positive; got {scale}. {get_again(file)}"
                )
            rows[name] = {key: t[index] for key, t in stacks.items() if t is not None}
    return rows


def _regenerate(
    file: Path,
    part: str,
    module: nn.Module,
    recipe: Recipe,
    rows: dict[str, dict[str, Tensor]],
) -> tuple[NoraConfig, dict[str, Tensor]]:
    """Return one part's configuration and tensors, after checking each layer by its probes."""
    layers = {name: _layer(file, part, module, name) for name in rows}
    dtype = DTYPES[recipe.dtype]
    outer = regenerate_outer(part, layers, recipe.outer_rank, recipe.outer, dtype)
    state: dict[str, Tensor] = {}
    for name, row in rows.items():
        factors = full_starts(row["start"], recipe.outer_rank) | inner_factors(row, row["start"])
        factors |= dict(zip(OUTER, outer[name], strict=True))
        off = deviation(factors, float(row["check"][-1]), row["check"][:-1])
        if not off <= TOLERANCE:  # a NaN is refused too
            held = str(layers[name].weight.dtype).removeprefix("torch.")
            raise StudioError(
                f"{file} does not belong to this base: the change of {part}.{name} would differ by "
                f"{off:.1%} from the trained one. It was trained on weights in {dtype}, and here "
                f"they are in {held}. Load the base it was trained on in that precision or in "
                "fp32, or use a portable LoRA."
            )
        state |= {f"{name}.{key}": tensor for key, tensor in factors.items()}
    return _config_for(recipe, rows), state


def _layer(file: Path, part: str, module: nn.Module, name: str) -> nn.Linear:
    try:
        layer = module.get_submodule(name)
    except AttributeError as error:
        raise StudioError(
            f"{file} adapts {part}.{name}, which this model lacks. Load the base it was trained on."
        ) from error
    if isinstance(layer, nn.Linear) and layer.weight.is_meta:
        raise StudioError(f"{file} is a seed file, which needs its base's weights. Load the base.")
    if not isinstance(layer, nn.Linear):
        raise StudioError(
            f"{file} adapts {part}.{name}, which is a {type(layer).__name__} here, not a linear "
            "layer. Load the base it was trained on, without adapters."
        )
    return layer


def _config_for(recipe: Recipe, rows: Mapping[str, Mapping[str, Tensor]]) -> NoraConfig:
    """Return the configuration that gives each of these layers its rank and scale."""
    ranks = {name: row["start"].shape[0] for name, row in rows.items()}
    alphas = {name: float(row["check"][-1]) * ranks[name] for name, row in rows.items()}
    rank, alpha = (Counter(v.values()).most_common(1)[0][0] for v in (ranks, alphas))
    return NoraConfig(
        r=int(rank),
        alpha=float(alpha),
        outer_rank=recipe.outer_rank,
        outer=recipe.outer,
        start=recipe.start,
        target_modules=list(rows),
        rank_pattern={name: own for name, own in ranks.items() if own != rank},
        alpha_pattern={name: own for name, own in alphas.items() if own != alpha},
        init_weights=False,
        inference_mode=True,
    )
