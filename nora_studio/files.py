"""Adapter files: a folder with a card and one PEFT directory for each adapted part."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nora_studio.atomic import replacing
from nora_studio.errors import StudioError
from nora_studio.fingerprints import fingerprint, fingerprints_agree
from nora_studio.methods import detach

CARD = "card.json"
WEIGHTS = "adapter_model.safetensors"
ADAPTER_NAME = "default"
PEFT_PREFIX = "base_model.model."
"""Of every key in a PEFT file; `PeftModel.from_pretrained` silently skips keys without it."""


@dataclass(frozen=True)
class AdapterCard:
    """What a reader must know of an adapter before loading it."""

    method: str
    model: str
    fingerprints: dict[str, list[float]]
    """Of each adapted part's base weights (`fingerprints.fingerprint`)."""
    trigger: str
    """The rare word that stands for "[V]"."""
    prompt: str
    """The prompt it was trained with, "[V]" included."""
    resolution: int
    """Side in pixels of the training pictures."""
    steps: int
    seed: int
    parameters: int
    """Trained parameters, all parts together."""
    version: str
    """Of nora-studio."""

    def at(self, steps: int) -> "AdapterCard":
        """The same card after some number of steps."""
        return replace(self, steps=steps)


def find_adapter(path: Path) -> Path:
    """The adapter folder behind a run folder, its `adapter/`, or one of its checkpoints."""
    path = Path(path).expanduser()
    for folder in (path, path / "adapter"):
        if (folder / CARD).is_file():
            return folder
    if not path.exists():
        raise StudioError(f"expected a run folder or an adapter folder; {path} does not exist.")
    if (path / "checkpoints").is_dir():
        raise StudioError(
            f"{path} is a run without a final adapter: its training has not finished. Resume it, "
            "or name one of its checkpoints."
        )
    raise StudioError(f"expected a run folder or an adapter folder; {path} holds no {CARD}.")


def read_card(path: Path) -> AdapterCard:
    """Read an adapter's card.

    Raises:
        StudioError: there is none, or it cannot be read.
    """
    file = find_adapter(path) / CARD
    known = {field.name for field in fields(AdapterCard)}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return AdapterCard(**{key: value for key, value in values.items() if key in known})
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise StudioError(f"{file} is damaged: {error}. Train again or restore it.") from error


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    # "auto", PEFT's default, would ask the Hub whether the base has new embeddings.
    return get_peft_model_state_dict(module, adapter_name=ADAPTER_NAME, save_embedding_layers=False)


def adapter_state(module: nn.Module) -> dict[str, Tensor]:
    """An adapted module's own tensors on the CPU, frozen factors included, by PEFT's keys."""
    state = _tensors_of(module)
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}


def write_adapter(folder: Path, parts: dict[str, nn.Module], card: AdapterCard) -> None:
    """Write an adapter into an existing folder, part by part and the card last.

    Not atomic by itself: `save_adapter` and checkpoints write beside and then replace.
    """
    for part, module in parts.items():
        target = folder / part
        target.mkdir()
        config: PeftConfig = module.peft_config[ADAPTER_NAME]  # pyright: ignore
        replace(config, base_model_name_or_path=card.model, inference_mode=True).save_pretrained(
            str(target)
        )
        # One key only: safetensors writes several in random order, and files would differ by it.
        metadata = {"nora_studio": json.dumps(asdict(card))}
        state = {PEFT_PREFIX + name: tensor for name, tensor in adapter_state(module).items()}
        save_file(state, target / WEIGHTS, metadata=metadata)
    text = json.dumps(asdict(card), indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")


def save_adapter(folder: Path, parts: dict[str, nn.Module], card: AdapterCard) -> None:
    """Save an adapter whole: written beside, then put in the place of what was there."""
    with replacing(folder) as fresh:
        write_adapter(fresh, parts, card)


def load_adapter(
    path: Path,
    parts: dict[str, nn.Module],
    strength: float = 1.0,
) -> AdapterCard:
    """Put a saved adapter on a pipeline's parts, in place.

    Args:
        path: Run folder, adapter folder or checkpoint.
        parts: The base's modules (`models.parts_of`), free of adapters.
        strength: Factor on the adapter's change; 1 is as trained, 0 is the base.

    Raises:
        StudioError: the adapter belongs to another base, or a file is missing or damaged. No part
            is changed then.
    """
    folder = find_adapter(path)
    card = read_card(folder)
    loaded = {part: _read_part(folder, part, parts, card) for part in card.fingerprints}
    try:
        for part, (config, state) in loaded.items():
            inject_adapter_in_model(config, parts[part], ADAPTER_NAME, low_cpu_mem_usage=True)
            _check_tensors(folder / part / WEIGHTS, state, parts[part])
    except ValueError as error:
        for part in loaded:
            detach(parts[part])
        if isinstance(error, StudioError):
            raise
        raise StudioError(f"{folder} does not fit this model: {error}. Restore it.") from error
    for part, (_, state) in loaded.items():
        module = parts[part]
        set_peft_model_state_dict(module, state, ADAPTER_NAME, low_cpu_mem_usage=True)
        _settle(module, state)
        if strength != 1.0:
            scale_adapter(module, strength)
    return card


def scale_adapter(module: nn.Module, strength: float) -> None:
    """Set the factor on every adapted layer's change, relative to how it was trained."""
    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_scale(ADAPTER_NAME, strength)  # type: ignore[attr-defined]


def _settle(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Bring the loaded factors to the base's device, frozen and in evaluation mode.

    PEFT rounds LoRA's float32 factors to a half-precision base's dtype on the way in; they are
    widened and set once more, so that a reloaded adapter is the trained one to the bit.
    """
    for layer in module.modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        layer._move_adapter_to_device_of_base_layer(ADAPTER_NAME)
        for name in layer.adapter_layer_names:
            for parameter in getattr(layer, name).parameters():
                if parameter.dtype in (torch.float16, torch.bfloat16):
                    parameter.data = parameter.data.float()
    set_peft_model_state_dict(module, state, ADAPTER_NAME)
    module.requires_grad_(False).eval()


def _read_part(
    folder: Path, part: str, parts: dict[str, nn.Module], card: AdapterCard
) -> tuple[PeftConfig, dict[str, Tensor]]:
    if part not in parts:
        raise StudioError(
            f"{folder} adapts {part!r}, which this model lacks (it has {', '.join(parts)})."
        )
    if not fingerprints_agree(card.fingerprints[part], fingerprint(parts[part])):
        raise StudioError(
            f"{folder} was trained on another base ({card.model}): its {part} weights differ from "
            "this model's. Load the model it was trained on."
        )
    try:
        config = PeftConfig.from_pretrained(str(folder / part))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StudioError(f"{folder / part} cannot be read: {error}. Restore it.") from error
    return config, _read_tensors(folder / part / WEIGHTS)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        # Cloned out of the file's mapping into aligned memory: CPU kernels round differently on
        # unaligned operands, and a reloaded adapter must draw what the trained one drew.
        state = {name: tensor.clone() for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise StudioError(f"{file} cannot be read: {error}. Restore it or train again.") from error
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise StudioError(f"{file} holds NaN or infinity in {bad[0]}. Train again.")
    return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in state.items()}


def _check_tensors(file: Path, state: dict[str, Tensor], module: nn.Module) -> None:
    """Refuse tensors that are not exactly the attached adapter's, by name and shape."""
    adapter = _tensors_of(module)
    expected = {name: tuple(tensor.shape) for name, tensor in adapter.items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise StudioError(
                f"{file} holds an adapter of another shape: {name} should be "
                f"{expected.get(name, 'absent')}; got {found.get(name, 'nothing')}. Use the file "
                "that was saved with these settings."
            )


def load_weights(path: Path, parts: dict[str, nn.Module]) -> None:
    """Set the weights of adapters that are attached already, bit for bit, to resume training.

    Raises:
        StudioError: a file is missing or damaged, or holds other tensors than the adapters.
    """
    for part, module in parts.items():
        file = path / part / WEIGHTS
        state = _read_tensors(file)
        _check_tensors(file, state, module)
        set_peft_model_state_dict(module, state, ADAPTER_NAME)
