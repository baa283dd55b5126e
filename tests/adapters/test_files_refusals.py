"""Damaged adapter files are refused in one line, and the model is unchanged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.specs import FILE_METHODS
from support.tiny import assert_same_tensors, states, tiny_adapter

from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import load_sdxl, parts_of


@pytest.fixture(scope="module", params=FILE_METHODS)
def adapter(request, tiny_base, tmp_path_factory) -> Path:
    """An adapter on the UNet and the first text encoder. Read only."""
    pipe = load_sdxl(str(tiny_base))
    return tiny_adapter(tmp_path_factory.mktemp(request.param) / "adapter", pipe, request.param)


@pytest.fixture
def copy(adapter, tmp_path) -> Path:
    """A copy of the adapter, to be spoiled."""
    return Path(shutil.copytree(adapter, tmp_path / "copy"))


def truncate(folder: Path) -> None:
    file = folder / "text_encoder" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])


def empty(folder: Path) -> None:
    (folder / "unet" / "adapter_model.safetensors").write_bytes(b"")


def poison(folder: Path) -> None:
    edit(folder, lambda state: next(iter(state.values())).view(-1)[:1].fill_(float("nan")))


def swap_parts(folder: Path) -> None:
    shutil.copy(
        folder / "unet" / "adapter_model.safetensors",
        folder / "text_encoder" / "adapter_model.safetensors",
    )


def drop_one(folder: Path) -> None:
    edit(folder, lambda state: state.pop(next(iter(state))))


def add_one(folder: Path) -> None:
    edit(folder, lambda state: state.update({"somebody.elses.weight": torch.zeros(2, 2)}))


def reshape_one(folder: Path) -> None:
    edit(folder, lambda state: state.update({next(iter(state)): torch.zeros(3, 5)}))


def edit(folder: Path, change) -> None:
    file = folder / "text_encoder" / "adapter_model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)


def lose_weights(folder: Path) -> None:
    (folder / "text_encoder" / "adapter_model.safetensors").unlink()


def lose_config(folder: Path) -> None:
    (folder / "text_encoder" / "adapter_config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "text_encoder" / "adapter_config.json").write_text("{")


def unknown_method(folder: Path) -> None:
    file = folder / "text_encoder" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": "SOMETHING"}))


def lose_part(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")


def break_card(folder: Path) -> None:
    (folder / "card.json").write_text('{"method": "nora"')


def thin_card(folder: Path) -> None:
    (folder / "card.json").write_text('{"method": "nora"}')


def list_card(folder: Path) -> None:
    (folder / "card.json").write_text("[]")


def lose_card(folder: Path) -> None:
    (folder / "card.json").unlink()


SPOILED = [
    truncate,
    empty,
    poison,
    swap_parts,
    drop_one,
    add_one,
    reshape_one,
    lose_weights,
    lose_config,
    break_config,
    unknown_method,
    lose_part,
    break_card,
    thin_card,
    list_card,
    lose_card,
]


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_a_damaged_adapter_is_refused_and_the_model_is_unchanged(tiny_pipe, copy, spoil):
    spoil(copy)
    parts = parts_of(tiny_pipe)
    before = states(parts)
    with pytest.raises(StudioError) as refusal:
        load_adapter(copy, parts)
    assert str(copy) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert_same_tensors(states(parts), before)


def test_an_adapter_for_a_part_that_the_model_lacks_is_refused(tiny_pipe, adapter):
    with pytest.raises(StudioError, match="'text_encoder', which this model lacks"):
        load_adapter(adapter, {"unet": tiny_pipe.unet})
