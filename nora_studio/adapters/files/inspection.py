"""Measure what an adapter file changes, and where most, without a model."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nora_studio.adapters.files.adapter_file import AdapterFile
from nora_studio.adapters.files.outer import core_of
from nora_studio.adapters.files.portable import alpha_scale, split_key
from nora_studio.adapters.files.seed import full_starts, inner_factors
from nora_studio.adapters.files.seed_reading import read_recipes, unstack_layers
from nora_studio.adapters.files.updates import Updates, norm_of
from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again

_PARTS = {
    "lora_unet_": "unet",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "unet.": "unet",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
}
_BLOCKS = (
    (re.compile(r"(down|up)_blocks[._](\d+)[._]attentions[._](\d+)"), "{0} {1}.{2}"),
    (re.compile(r"(down|up)_blocks[._](\d+)[._]"), "{0} {1}"),
    (re.compile(r"(mid)(?:dle)?_block"), "{0}"),
    (re.compile(r"(in|out)put_blocks[._](\d+)[._]"), "{0} {1}"),
    (re.compile(r"layers[._](\d+)[._]"), "layer {0}"),
)
_VALUE_LIMIT = 2000


@dataclass(frozen=True)
class LayerFacts:
    """One adapted layer."""

    part: str
    """Part of the model; empty if the file does not say."""
    name: str
    """The layer's name, as in the file."""
    rank: int
    norm: float
    """Frobenius norm of its weight's change."""
    scale: float = 1.0
    """Factor on the product of its factors: alpha / rank."""


@dataclass(frozen=True)
class BlockFacts:
    """The layers of one block."""

    part: str
    block: str
    layers: int
    ranks: tuple[int, ...]
    energy: float
    """Sum of the squared norms of its layers' changes."""


def layers_of(adapter: AdapterFile) -> list[LayerFacts]:
    """Measure a file's change of each layer, for methods whose changes are low-rank products.

    Returns:
        One entry for each layer; none if the changes do not follow from the file alone.

    Raises:
        StudioError: the tensors do not fit together.
    """
    if adapter.identity.kind == "seed":
        return _seed_layers(adapter)
    return _lora_layers(adapter) if adapter.identity.method == "LoRA" else []


def facts_of(updates: Updates) -> list[LayerFacts]:
    """Return the same facts for updates that were read from a model."""
    return [
        LayerFacts(part, name, update.rank, norm_of(update.up, update.down))
        for part, layers in updates.items()
        for name, update in layers.items()
    ]


def group_by_block(layers: list[LayerFacts]) -> list[BlockFacts]:
    """Group layers by block, in the file's order of parts and in natural order of blocks."""
    groups: dict[tuple[str, str], list[LayerFacts]] = {}
    for layer in layers:
        groups.setdefault((layer.part, block_of(layer.name)), []).append(layer)
    parts = list(dict.fromkeys(layer.part for layer in layers))
    order = sorted(groups, key=lambda key: (parts.index(key[0]), _block_order(key[1])))
    return [
        BlockFacts(
            part,
            block,
            len(groups[part, block]),
            tuple(sorted({layer.rank for layer in groups[part, block]})),
            sum(layer.norm**2 for layer in groups[part, block]),
        )
        for part, block in order
    ]


def block_of(name: str) -> str:
    """Return the block that a layer belongs to, from its name in any tool's spelling."""
    for pattern, text in _BLOCKS:
        match = pattern.search(name)
        if match:
            return text.format(*match.groups())
    return "other"


def _block_order(block: str) -> tuple[int, list[int]]:
    """Return a sorting key: down before mid before up, and numbers by value."""
    rank = {"down": 0, "in": 0, "mid": 1, "up": 2, "out": 2}.get(block.split(" ")[0], 3)
    return rank, [int(number) for number in re.findall(r"\d+", block)]


def _seed_layers(adapter: AdapterFile) -> list[LayerFacts]:
    tensors = adapter.tensors()
    facts = []
    for part, recipe in read_recipes(adapter).items():
        for name, row in unstack_layers(adapter.path, part, recipe, tensors).items():
            factors = full_starts(row["start"], recipe.outer_rank) | inner_factors(
                row, row["start"]
            )
            scale = float(row["check"][-1])
            norm = abs(scale) * float(core_of(factors).norm())
            facts.append(LayerFacts(part, name, row["start"].shape[0], norm, scale))
    return facts


def _lora_layers(adapter: AdapterFile) -> list[LayerFacts]:
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapter.tensors().items():
        stem, role = split_key(key)
        if role is not None:
            layers.setdefault(stem, {})[role] = tensor.double()
    return [
        _lora_facts(adapter.path, stem, found) for stem, found in layers.items() if len(found) > 1
    ]


def _lora_facts(file: Path, stem: str, found: dict[str, Tensor]) -> LayerFacts:
    try:
        up, down = found["up"].flatten(1), found["down"].flatten(1)
        scale = 1.0
        if "alpha" in found:
            scale = alpha_scale(file, stem, float(found["alpha"]), down.shape[0])
        norm = abs(scale) * norm_of(up, down)
    except (KeyError, IndexError, RuntimeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, StudioError):
            raise
        reason = " ".join(str(error).split())
        raise StudioError(
            f"{file}: the factors of {stem} do not fit together: {reason}. {get_again(file)}"
        ) from error
    part = next((part for prefix, part in _PARTS.items() if stem.startswith(prefix)), "")
    prefix = next((prefix for prefix in _PARTS if stem.startswith(prefix)), "")
    return LayerFacts(part, stem.removeprefix(prefix), down.shape[0], norm, scale)


def readable_metadata(adapter: AdapterFile) -> dict[str, str]:
    """Return the metadata that people can read, without long values."""
    return {
        key: " ".join(value.split())
        for key, value in sorted(adapter.metadata.items())
        if key.startswith(("modelspec.", "ss_")) and 0 < len(value) <= _VALUE_LIMIT
    }
