"""`nora-studio merge`: write a pipeline with adapters merged into its weights."""

import torch
from torch import Tensor, nn

from nora_studio.adapters.files.adapter_file import AdapterFile, open_subject_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.updates import dense_change
from nora_studio.adapters.methods.attachment import detach
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.new_tokens import join_tokens, write_into
from nora_studio.cli.commands.merge import Options
from nora_studio.cli.mix import match_weights
from nora_studio.cli.opening import base_of, check_out_folder
from nora_studio.errors import StudioError
from nora_studio.options.precision import DTYPES
from nora_studio.runs.atomic import replacing
from nora_studio.sdxl.models import load_sdxl, parts_of

Changes = dict[tuple[str, str], Tensor]
"""(part, layer) -> change of its weight, (out_features, in_features), float32."""


def run(options: Options) -> int:
    """Write the pipeline, print where, and return the exit status."""
    out = check_out_folder(options.out)
    weights = match_weights(options.adapters, options.weights)
    adapters = [open_subject_adapter(path) for path in options.adapters]
    model = next((adapter.card.model for adapter in adapters if adapter.card.model), None)
    card = base_of(adapters[0], options.model or model)
    tokens = join_tokens([adapter.new_tokens() for adapter in adapters])
    pipe = load_sdxl(card.model, torch.float32)
    parts = parts_of(pipe)
    changes: Changes = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        add_changes(changes, adapter, parts, weight)
    for (part, name), change in changes.items():
        layer = parts[part].get_submodule(name)
        _add(f"{part}.{name}", layer, change, DTYPES[options.precision])
    if tokens is not None:
        write_into(pipe, tokens)
    for module in (*parts.values(), pipe.vae):
        nn.Module.to(module, DTYPES[options.precision])  # diffusers' own `to` warns needlessly.
    try:
        with replacing(out) as folder:
            pipe.save_pretrained(folder, safe_serialization=True)
    except OSError as error:
        raise StudioError(f"--out: {out} cannot be written: {error.strerror or error}.") from error
    print(f"{out}: {card.model} with {len(changes)} changed layers, {options.precision}")
    if tokens is not None:
        print(f"  with the new tokens {tokens.trigger}: write them in prompts for the subject")
    return 0


def add_changes(
    changes: Changes, adapter: AdapterFile, parts: dict[str, nn.Module], weight: float
) -> None:
    """Add an adapter's change of every layer, times its weight, to `changes`.

    The adapter is loaded onto the base alone and then removed: it was trained on that base, and its
    file is checked against it.

    Raises:
        StudioError: the adapter cannot be read, belongs to another base, or cannot be merged.
    """
    load_adapter(adapter, parts)
    try:
        for part, module in parts.items():
            for name, layer in tuner_layers(module).items():
                change = weight * dense_change(f"{part}.{name}", layer).float()
                known = changes.get((part, name))
                changes[part, name] = change if known is None else known + change
    finally:
        for module in parts.values():
            detach(module)


@torch.no_grad()
def _add(name: str, layer: nn.Module, change: Tensor, dtype: torch.dtype) -> None:
    weight: Tensor = layer.weight  # pyright: ignore
    weight.add_(change.reshape(weight.shape).to(weight.device))
    if not bool(torch.isfinite(weight.to(dtype)).all()):
        raise StudioError(
            f"{name}: the merged weights are out of range for {dtype}. Merge with --precision bf16 "
            "or fp32, or with smaller --weights."
        )
