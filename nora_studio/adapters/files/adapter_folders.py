"""Adapter folders: a card, and one PEFT directory for each adapted part.

Training writes such folders and resumes from them; single files (`portable`, `seed`) are for
sharing. `load_adapter` loads both.
"""

import json
from dataclasses import replace
from pathlib import Path

from peft import PeftConfig
from torch import Tensor, nn

from nora_studio.adapters.base_digests import base_digest, digests_differ
from nora_studio.adapters.files.adapter_file import (
    CARD,
    AdapterFile,
    check_checkpoint_exists,
    open_adapter,
)
from nora_studio.adapters.files.card import AdapterCard, card_text, card_values
from nora_studio.adapters.files.embeddings import write_embeddings
from nora_studio.adapters.files.identify import CARD_KEY, EMBEDDINGS
from nora_studio.adapters.files.peft_settings import CONFIG, WEIGHTS, config_of
from nora_studio.adapters.files.portable import read_portable
from nora_studio.adapters.files.seed_reading import read_seed
from nora_studio.adapters.fingerprints import fingerprint, fingerprints_agree
from nora_studio.adapters.methods.attachment import detach
from nora_studio.adapters.methods.injection import (
    adapter_tensors,
    inject,
    peft_key,
    set_adapter_tensors,
    set_strength,
)
from nora_studio.adapters.methods.peft_tuners import adapter_config
from nora_studio.adapters.new_tokens import NewTokens
from nora_studio.adapters.peft_names import ADAPTER_NAME
from nora_studio.errors import StudioError
from nora_studio.runs.atomic import replacing
from nora_studio.runs.remedies import get_again
from nora_studio.runs.tensor_files import write_tensors
from nora_studio.runs.weight_files import check_weights

Loaded = dict[str, tuple[PeftConfig, dict[str, Tensor]]]
"""Part -> PEFT's configuration and its tensors, keys without PEFT's prefix."""


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """Return an adapted module's adapter tensors on the CPU, frozen ones too, by PEFT's keys."""
    state = adapter_tensors(module, ADAPTER_NAME)
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}


def write_adapter(
    folder: Path,
    parts: dict[str, nn.Module],
    card: AdapterCard,
    tokens: NewTokens | None = None,
) -> None:
    """Write an adapter into an existing folder: part by part, new tokens, and the card last.

    Not atomic by itself: `save_adapter` and checkpoints write to a temporary folder first.
    """
    for part, module in parts.items():
        target = folder / part
        target.mkdir()
        config: PeftConfig = adapter_config(module, ADAPTER_NAME)
        config = replace(config, base_model_name_or_path=card.model, inference_mode=True)
        config.save_pretrained(str(target))
        _sort_sets(target / CONFIG, config)
        state = {peft_key(name): tensor for name, tensor in adapter_state(module).items()}
        write_tensors(target / WEIGHTS, state, {CARD_KEY: card_text(card)})
    if tokens is not None:
        write_embeddings(folder / EMBEDDINGS, tokens, card)
    text = json.dumps(card_values(card), indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def _sort_sets(file: Path, config: PeftConfig) -> None:
    """Sort a saved configuration's sets, whose order differs from process to process."""
    values = json.loads(file.read_text(encoding="utf-8"))
    for name in values:
        if isinstance(getattr(config, name, None), set):
            values[name] = sorted(values[name])
    file.write_text(json.dumps(values, indent=2, sort_keys=True), encoding="utf-8")


def save_adapter(folder: Path, parts: dict[str, nn.Module], card: AdapterCard) -> None:
    """Save an adapter atomically, replacing what was in the folder."""
    with replacing(folder) as fresh:
        write_adapter(fresh, parts, card)


def load_adapter(
    path: Path | AdapterFile,
    parts: dict[str, nn.Module],
    strength: float = 1.0,
) -> AdapterCard:
    """Load a saved adapter onto a pipeline's parts, in place.

    New tokens are not loaded, since they need the pipeline's tokenizers (`generate.adapter_on`).

    Args:
        path: An opened adapter, or a path that `open_adapter` opens.
        parts: The base's modules (`models.parts_of`), without adapters. They may be on the meta
            device, to read the adapter's factors only; the base's weights are not checked then.
        strength: Factor on the adapter's change; 1 is as trained, 0 is the base.

    Raises:
        StudioError: the adapter belongs to another base, or a file is missing or damaged. No part
            is changed then.
    """
    adapter = open_adapter(path)
    source, card = adapter.path, adapter.card
    try:
        loaded = _read_parts(adapter, parts)
    except StudioError:
        check_checkpoint_exists(source)
        raise
    try:
        for part, (config, state) in loaded.items():
            inject(config, parts[part], ADAPTER_NAME, low_cpu_mem_usage=True)
            _check_tensors(source, part, state, parts[part])
    except ValueError as error:
        for part in loaded:
            detach(parts[part])
        if isinstance(error, StudioError):
            raise
        # Without fingerprints in the card, the base may be another one.
        remedy = "Load the base it was trained on."
        if any(card.fingerprints.values()):
            remedy = get_again(source)
        raise StudioError(f"{source} does not fit this model: {error}. {remedy}") from error
    for part, (_, state) in loaded.items():
        module = parts[part]
        set_adapter_tensors(module, state, ADAPTER_NAME, low_cpu_mem_usage=True)
        module.requires_grad_(False).eval()
        if strength != 1.0:
            set_strength(module, strength, ADAPTER_NAME)
    return card


def _is_on_meta(module: nn.Module) -> bool:
    """Return whether a base has only shapes and no weights."""
    return all(tensor.is_meta for tensor in module.state_dict().values())


def _read_parts(adapter: AdapterFile, parts: dict[str, nn.Module]) -> Loaded:
    """Read configuration and tensors of every part of a folder or file, for this base.

    Raises:
        StudioError: the adapter cannot be loaded, is damaged, or was made for another base.
    """
    card = adapter.card
    for part, prints in card.fingerprints.items():
        adapter.check_part(part, parts)
        if _is_on_meta(parts[part]):
            continue
        agree = fingerprints_agree(prints, fingerprint(parts[part]))
        if not agree or digests_differ(card.digests.get(part, ""), base_digest(parts[part])):
            raise StudioError(
                f"{adapter.path} was trained on another base ({card.model}): its {part} weights "
                "differ from this model's. Load the model it was trained on."
            )
    if adapter.is_folder:
        return {part: _read_part(adapter, part) for part in card.fingerprints}
    if adapter.identity.kind == "seed":
        return dict(read_seed(adapter, parts))
    return read_portable(adapter, parts)


def _read_part(adapter: AdapterFile, part: str) -> tuple[PeftConfig, dict[str, Tensor]]:
    folder = adapter.path / part
    config = config_of(adapter.part_settings(part), folder)
    check_weights("--adapter", str(folder), folder, WEIGHTS, "Get the adapter as safetensors.")
    return config, adapter.tensors(part)


def _check_tensors(source: Path, part: str, state: dict[str, Tensor], module: nn.Module) -> None:
    """Refuse tensors whose names or shapes are not exactly the attached adapter's."""
    adapter = adapter_tensors(module, ADAPTER_NAME)
    expected = {name: tuple(tensor.shape) for name, tensor in adapter.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        wanted, got = expected.get(name), found.get(name)
        if wanted != got:
            raise StudioError(
                f"{source} holds an adapter of another shape: {part}.{name} should be "
                f"{'absent' if wanted is None else f'a tensor of shape {wanted}'}; got "
                f"{'no tensor' if got is None else f'a tensor of shape {got}'}. {get_again(source)}"
            )


def load_weights(path: Path, parts: dict[str, nn.Module], card: AdapterCard | None = None) -> None:
    """Load the weights of adapters that are attached already, bit for bit, to resume training.

    Args:
        path: An adapter folder or checkpoint.
        parts: The adapted modules.
        card: The attached adapters' card; the saved ones must be of the same base.

    Raises:
        StudioError: a file is missing or damaged, holds other tensors than the adapters, or
            belongs to another base.
    """
    adapter = open_adapter(path)
    if card is not None:
        _check_resumed(path, adapter.card, card)
    for part, module in parts.items():
        state = adapter.tensors(part)
        _check_tensors(path, part, state, module)
        set_adapter_tensors(module, state, ADAPTER_NAME)


def _check_resumed(path: Path, saved: AdapterCard, current: AdapterCard) -> None:
    """Refuse to resume a checkpoint that was trained on another base."""
    for part, prints in saved.fingerprints.items():
        agree = fingerprints_agree(prints, current.fingerprints.get(part, prints))
        if agree and not digests_differ(saved.digests.get(part, ""), current.digests.get(part, "")):
            continue
        if saved.model != current.model:
            raise StudioError(
                f"--model: {path} was trained on {saved.model}; --model says {current.model}, "
                f"whose {part} weights differ. Give the model that it was trained on."
            )
        raise StudioError(
            f"--resume: {path} was trained on another base: the {part} weights of {current.model} "
            "have changed since. Restore the model, or start a new run with another --name."
        )
