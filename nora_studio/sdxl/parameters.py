"""Counting the parameters that an adapter trains on a model, from its shapes alone."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nora_studio.adapters.methods.attachment import attach, count_parameters
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import PARTS, TARGET_CHOICES, used_targets
from nora_studio.sdxl.shapes import shapes_of

LANGUAGE = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
"""Layers of language models that the paper's Table 1 adapts, except in rows with q and v only."""
CLIP = ("q_proj", "k_proj", "v_proj")
"""Layers that CLIP-LoRA's protocol adapts, in both encoders."""


@dataclass(frozen=True)
class Count:
    """The counts of one part of a model."""

    part: str
    layers: int
    """Number of adapted linear layers."""
    base: int
    """Number of the part's own parameters."""
    trained: int
    """Number of parameters that the adapter trains."""


def count(model: str, spec: AdapterSpec, targets: Sequence[str] = ()) -> list[Count]:
    """Count an adapter's trained parameters, part by part, without loading weights.

    Args:
        model: A model as `shapes.shapes_of` takes it.
        spec: The adapter. AdaLoRA is counted as it is at the start.
        targets: Endings of layer names; or "attention" or "attention+feedforward" for SDXL. None
            given: attention in SDXL; q, k, v in CLIP; q, k, v, up, down in other models.

    Raises:
        StudioError: the model or the method is unknown, or a target matches no layer.
    """
    modules = shapes_of(model)
    wanted = {part: _targets(part, module, targets) for part, module in modules.items()}
    unmatched = set(targets) - {t for found in wanted.values() for t in found}
    if unmatched and not set(targets) <= set(TARGET_CHOICES):
        raise StudioError(
            f"--targets: no layer of {model} ends with {', '.join(sorted(unmatched))}. "
            f"{_examples(modules, unmatched)}"
        )
    counts = []
    for part, module in modules.items():
        base = sum(parameter.numel() for parameter in module.parameters())
        layers = 0
        if wanted[part]:
            with torch.device("meta"):
                layers = len(attach(module, wanted[part], spec))
        counts.append(Count(part, layers, base, count_parameters(module)))
    return counts


def _targets(part: str, module: nn.Module, targets: Sequence[str]) -> list[str]:
    if part in PARTS and (not targets or set(targets) <= set(TARGET_CHOICES)):
        return used_targets(part, module, targets[0] if targets else "attention")
    if named := [target for target in targets if target in TARGET_CHOICES]:
        raise StudioError(
            f"--targets: expected endings of layer names here; got {', '.join(named)}, which "
            "stands for SDXL's layers and takes no other beside it. Give endings alone."
        )
    if not targets:
        kind = type(module).__name__
        if kind == "UNet2DConditionModel":
            return used_targets("unet", module)
        targets = CLIP if kind.startswith("CLIP") else LANGUAGE
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return [t for t in targets if any(n == t or n.endswith(f".{t}") for n in names)]


def _examples(modules: dict[str, nn.Module], unmatched: set[str]) -> str:
    endings = sorted(
        {
            name.rpartition(".")[2]
            for module in modules.values()
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and not name.rpartition(".")[2].isdigit()
        }
    )
    near = [close for word in unmatched for close in difflib.get_close_matches(word, endings, n=1)]
    if near:
        return f"Did you mean {', '.join(near)}?"
    return f"Linear layers end with, for example: {', '.join(endings[:8])}."


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper's Table 1, for its number of parameters."""

    model: str
    label: str
    spec: AdapterSpec
    targets: tuple[str, ...]
    printed: str
    """The number in the paper."""


_QV = ("q_proj", "v_proj")
TABLE_1 = (
    PaperRow("llama-1-7b", "LoRA, rank 16", AdapterSpec("lora", 16), _QV, "8.4M"),
    PaperRow("llama-1-7b", "LoRA, rank 32", AdapterSpec("lora", 32), _QV, "16.8M"),
    PaperRow(
        "llama-1-7b", "NoRA, 800 x 32", AdapterSpec("nora", 32, outer_rank=800), LANGUAGE, "8.2M"
    ),
    PaperRow("llama-3-8b", "LoRA, rank 16", AdapterSpec("lora", 16), LANGUAGE, "28.3M"),
    PaperRow(
        "llama-3-8b", "NoRA, 700 x 32", AdapterSpec("nora", 32, outer_rank=700), LANGUAGE, "7.2M"
    ),
    PaperRow(
        "llama-1-7b",
        "NoRA, 1000 x 32 (in the text)",
        AdapterSpec("nora", 32, outer_rank=1000),
        LANGUAGE,
        "10.2M",
    ),
)
"""Rows of arXiv:2408.10280, Table 1, whose ranks are known or follow from the counts. NoRA's ranks
are an interpretation: others give the same counts (400 x 64 and 1600 x 16 for 8.2M)."""


def count_trained(row: PaperRow) -> int:
    """Count the trained parameters of a row of the paper."""
    return sum(part.trained for part in count(row.model, row.spec, row.targets))
