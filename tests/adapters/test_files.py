"""An adapter is loaded exactly as it was saved, on its own base, or nothing is changed."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from support.specs import FILE_METHODS, spec_of
from support.tiny import RARE_TOKEN, SIZE, assert_same_tensors, states, tiny_adapter, tiny_sdxl

from nora_studio.adapters.files.adapter_file import find_adapter, open_adapter
from nora_studio.adapters.files.adapter_folders import (
    adapter_state,
    load_adapter,
    load_weights,
    save_adapter,
)
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint, fingerprints_agree
from nora_studio.adapters.methods.attachment import adapter_parameters, attach, detach
from nora_studio.errors import StudioError
from nora_studio.runs.atomic import write_text
from nora_studio.sdxl.generate import generate_images
from nora_studio.sdxl.models import load_sdxl, parts_of, targets_for

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ADAPTED = ("unet", "text_encoder")


@pytest.fixture(scope="module", params=FILE_METHODS)
def method(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def adapter(method, tiny_base, tmp_path_factory) -> Path:
    """An adapter far from zero on the UNet and the first text encoder. Read only."""
    pipe = load_sdxl(str(tiny_base))
    return tiny_adapter(tmp_path_factory.mktemp(method) / "adapter", pipe, method)


def trained_parts(pipe, method: str) -> dict[str, torch.nn.Module]:
    """Parts with adapters attached and moved, as training leaves them."""
    parts = {part: getattr(pipe, part) for part in ADAPTED}
    torch.manual_seed(3)
    for part, module in parts.items():
        spec = spec_of(method, 2, outer_rank=8)
        attach(module, targets_for(part), spec)
        for parameter in adapter_parameters(module).values():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return parts


def card_for(parts: dict[str, torch.nn.Module], method: str) -> AdapterCard:
    prints = {part: fingerprint(module) for part, module in parts.items()}
    return AdapterCard(method, "tiny", prints, RARE_TOKEN, 'ä "[V]" mug', SIZE, 3, 0, 12, "0")


def picture(pipe) -> np.ndarray:
    drawn = generate_images(
        pipe, ["a photo of a [V] mug"], [0], steps=2, guidance=5, size=SIZE, trigger=RARE_TOKEN
    )
    return np.asarray(next(iter(drawn))[2], dtype=np.int64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_trained_weights_come_back_to_the_bit_in_float32(method, tiny_base, tmp_path, dtype):
    parts = trained_parts(load_sdxl(str(tiny_base), dtype), method)
    trained = {part: dict(adapter_parameters(module)) for part, module in parts.items()}
    assert {p.dtype for of_part in trained.values() for p in of_part.values()} == {torch.float32}
    saved = {part: adapter_state(module) for part, module in parts.items()}
    save_adapter(tmp_path / "adapter", parts, card_for(parts, method))
    again = load_sdxl(str(tiny_base), dtype)
    load_adapter(tmp_path / "adapter", parts_of(again))
    for part in ADAPTED:
        module = getattr(again, part)
        assert_same_tensors(adapter_state(module), saved[part])
        loaded = dict(module.named_parameters())
        for name, parameter in trained[part].items():
            assert loaded[name].dtype == torch.float32, name
            assert torch.equal(loaded[name], parameter), name


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_loaded_adapter_generates_the_same_image_as_the_trained_one(
    method, tiny_base, tmp_path, dtype
):
    pipe = load_sdxl(str(tiny_base), dtype)
    bare = picture(pipe)
    parts = trained_parts(pipe, method)
    for module in parts.values():
        module.eval()
    trained = picture(pipe)
    save_adapter(tmp_path / "adapter", parts, card_for(parts, method))
    again = load_sdxl(str(tiny_base), dtype)
    load_adapter(tmp_path / "adapter", parts_of(again))
    assert (picture(again) == trained).all()
    assert np.abs(trained - bare).mean() > 1


def test_a_loaded_adapter_is_frozen_and_leaves_the_base_as_it_was(tiny_pipe, adapter):
    parts = parts_of(tiny_pipe)
    before = states(parts)
    load_adapter(adapter, parts)
    assert not any(p.requires_grad for module in parts.values() for p in module.parameters())
    assert not any(module.training for module in parts.values())
    for module in parts.values():
        detach(module)
    assert_same_tensors(states(parts), before)


def test_strength_interpolates_between_the_base_and_the_adapter(tiny_pipe, adapter):
    bare = picture(tiny_pipe)
    moved = {}
    for strength in (0.0, 0.3, 1.0):
        load_adapter(adapter, parts_of(tiny_pipe), strength)
        moved[strength] = np.abs(picture(tiny_pipe) - bare).mean()
        for module in parts_of(tiny_pipe).values():
            detach(module)
    assert moved[0.0] == 0
    assert 0 < moved[0.3] < moved[1.0]


def test_the_card_is_read_back_and_is_in_the_header_of_the_weights(adapter, method):
    card = open_adapter(adapter).card
    assert (card.method, card.trigger, card.resolution) == (method, RARE_TOKEN, SIZE)
    with safe_open(adapter / "unet" / "adapter_model.safetensors", framework="pt") as archive:
        inside = json.loads(archive.metadata()["nora_studio"])
    assert AdapterCard(**inside) == card
    text = (adapter / "card.json").read_text(encoding="utf-8")
    (adapter.parent / "later").mkdir(exist_ok=True)
    later = json.loads(text) | {"a_field_of_a_later_version": 1}
    (adapter.parent / "later" / "card.json").write_text(json.dumps(later))
    assert open_adapter(adapter.parent / "later").card == card


def test_peft_and_transformers_read_the_same_adapter(tiny_base, adapter, method):
    ours, theirs = (load_sdxl(str(tiny_base)) for _ in range(2))
    load_adapter(adapter, parts_of(ours))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT only warns of keys it does not find
        unet = PeftModel.from_pretrained(theirs.unet, str(adapter / "unet"))
        theirs.text_encoder.load_adapter(str(adapter / "text_encoder"))
    assert_same_tensors(adapter_state(unet.get_base_model()), adapter_state(ours.unet))
    loaded = adapter_state(theirs.text_encoder)
    assert_same_tensors(loaded, adapter_state(ours.text_encoder))


def test_an_adapter_of_another_base_is_refused(adapter, tmp_path):
    other = load_sdxl(str(tiny_sdxl(tmp_path / "other", seed=1)))
    before = states(parts_of(other))
    with pytest.raises(StudioError, match="another base"):
        load_adapter(adapter, parts_of(other))
    assert_same_tensors(states(parts_of(other)), before)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_the_same_base_in_half_precision_is_accepted(adapter, tiny_base, dtype):
    load_adapter(adapter, parts_of(load_sdxl(str(tiny_base), dtype)))


def test_fingerprints_ignore_dtype_and_adapters_and_tell_other_bases(tiny_base, method):
    pipe = load_sdxl(str(tiny_base))
    bare = fingerprint(pipe.unet)
    attach(pipe.unet, targets_for("unet"), spec_of(method, 2, outer_rank=8))
    assert fingerprint(pipe.unet) == bare
    assert fingerprints_agree(bare, fingerprint(load_sdxl(str(tiny_base), torch.float16).unet))
    assert not fingerprints_agree(bare, bare[:-1])
    assert not fingerprints_agree(bare, [*bare[:-1], bare[-1] + 0.05])


def test_resuming_sets_the_weights_to_the_bit(method, tiny_base, tmp_path):
    parts = trained_parts(load_sdxl(str(tiny_base), torch.bfloat16), method)
    saved = {part: adapter_state(module) for part, module in parts.items()}
    save_adapter(tmp_path / "adapter", parts, card_for(parts, method))
    for module in parts.values():
        for parameter in adapter_parameters(module).values():
            parameter.data.zero_()
    load_weights(tmp_path / "adapter", parts)
    for part, module in parts.items():
        assert_same_tensors(adapter_state(module), saved[part])
        assert adapter_parameters(module)  # still trained


def test_resuming_with_another_shape_is_refused(tiny_pipe, adapter, method):
    attach(tiny_pipe.unet, targets_for("unet"), spec_of(method, 3, outer_rank=8))
    with pytest.raises(StudioError, match="another shape"):
        load_weights(adapter, {"unet": tiny_pipe.unet})


def test_adapters_are_found_from_run_folder_adapter_folder_and_checkpoint(adapter, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(StudioError, match="has not finished"):
        find_adapter(run)
    shutil.copytree(adapter, run / "adapter")
    shutil.copytree(adapter, run / "checkpoints" / "step-000002")
    assert find_adapter(run) == find_adapter(run / "adapter") == run / "adapter"
    step = run / "checkpoints" / "step-000002"
    assert find_adapter(step) == step
    for nothing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(StudioError, match="expected a run folder"):
            find_adapter(nothing)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_failed_save_leaves_the_old_adapter_intact(method, tiny_pipe, tmp_path):
    parts = trained_parts(tiny_pipe, method)
    save_adapter(tmp_path / "adapter", parts, card_for(parts, method))
    before = tree(tmp_path)
    # The second part cannot be written: it is no adapted module.
    with pytest.raises(AttributeError):
        save_adapter(
            tmp_path / "adapter",
            {"unet": parts["unet"], "text_encoder": torch.nn.Linear(2, 2)},
            card_for(parts, method),
        )
    assert tree(tmp_path) == before


def test_saving_again_replaces_the_folder(method, tiny_pipe, tmp_path):
    parts = trained_parts(tiny_pipe, method)
    (tmp_path / "adapter" / "left-over").mkdir(parents=True)
    save_adapter(tmp_path / "adapter", parts, card_for(parts, method))
    assert names(tmp_path) == ["adapter"]  # nothing left beside it
    assert names(tmp_path / "adapter") == ["card.json", "text_encoder", "unet"]


def test_a_text_file_is_replaced_atomically(tmp_path):
    file = tmp_path / "status.json"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "half \ud800")
    assert file.read_text() == "old"
    write_text(file, "new")
    assert file.read_text() == "new"
