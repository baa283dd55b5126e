"""Every method is saved and loaded on every model family, by our loader and by PEFT's."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.families import FAMILIES, make, train
from support.specs import SHARING, SPECS
from support.tolerances import FLOAT32_OUTPUT
from torch import nn

from nora_studio.adapters.files.adapter_folders import load_adapter, load_weights, save_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import (
    adapter_parameters,
    attach,
    count_parameters,
    detach,
)
from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError

PLACES = [("unet", torch.float32), ("clip", torch.bfloat16), ("llama", torch.float32)]
UNSCALABLE = ("vera", "vblora", "oft")


def run(family: str, model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return FAMILIES[family].run(model)


def trained(method: str, family: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    model = make(FAMILIES[family], dtype=dtype)
    attach(model, FAMILIES[family].targets, SPECS[method])
    train(FAMILIES[family], model)
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def save(folder: Path, method: str, model: nn.Module) -> None:
    card = AdapterCard(
        method, "tiny", {"model": fingerprint(model)}, "sks", "[V]", 8, 1, 0,
        count_parameters(model), "0",
    )  # fmt: skip
    save_adapter(folder, {"model": model}, card)


@pytest.mark.parametrize("method", SPECS)
@pytest.mark.parametrize(("family", "dtype"), PLACES)
def test_a_saved_adapter_gives_the_same_output_bit_for_bit_on_the_untouched_base(
    method, family, dtype, tmp_path
):
    model = trained(method, family, dtype)
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(False)  # gradients alone may change how a product is rounded
    expected = run(family, model)
    save(tmp_path / "adapter", method, model)
    fresh = make(FAMILIES[family], dtype=dtype)
    base = run(family, fresh)
    torch.manual_seed(77)  # nothing may depend on the seed of the start
    load_adapter(tmp_path / "adapter", {"model": fresh})
    assert torch.equal(run(family, fresh), expected) and not torch.equal(base, expected)
    detach(fresh)
    assert torch.equal(run(family, fresh), base)


@pytest.mark.parametrize("method", SPECS)
def test_training_resumed_from_a_file_equals_uninterrupted_training(method, tmp_path):
    model = trained(method, "llama", torch.bfloat16)
    save(tmp_path / "adapter", method, model)
    family = FAMILIES["llama"]
    losses = train(family, model)
    other = make(family, dtype=torch.bfloat16)
    torch.manual_seed(5)
    attach(other, family.targets, SPECS[method])
    load_weights(tmp_path / "adapter", {"model": other})
    assert train(family, other) == losses
    ours, theirs = adapter_parameters(model), adapter_parameters(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("method", SPECS)
def test_pefts_own_loader_reads_the_folder(method, tmp_path):
    model = trained(method, "llama", torch.float32)
    expected = run("llama", model)
    save(tmp_path / "adapter", method, model)
    torch.manual_seed(77)
    fresh = make(FAMILIES["llama"])
    with warnings.catch_warnings():
        if method != "randlora":  # of which PEFT expects a copy of the frozen pair for each layer
            warnings.filterwarnings("error", message="Found missing adapter keys")
        loaded = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter" / "model"))
    torch.testing.assert_close(run("llama", loaded), expected, **FLOAT32_OUTPUT)


@pytest.mark.parametrize("method", SHARING)
def test_shared_tensors_are_in_the_file_once(method, tmp_path):
    model = trained(method, "llama", torch.float32)
    save(tmp_path / "adapter", method, model)
    state = load_file(tmp_path / "adapter" / "model" / "adapter_model.safetensors")
    tensors = list(state.values())
    for index, tensor in enumerate(tensors):
        for other in tensors[index + 1 :]:
            assert other.shape != tensor.shape or not torch.equal(other, tensor)
    assert sum(t.numel() for t in tensors) >= count_parameters(model)


@pytest.mark.parametrize("method", [m for m in METHODS if m not in UNSCALABLE])
def test_strength_scales_the_change_from_nothing_to_all(method, tmp_path):
    model = trained(method, "llama", torch.float32)
    expected = run("llama", model)
    save(tmp_path / "adapter", method, model)
    fresh = make(FAMILIES["llama"])
    base = run("llama", fresh)
    outputs = {}
    for strength in (0.0, 0.5, 1.0):
        load_adapter(tmp_path / "adapter", {"model": fresh}, strength)
        outputs[strength] = run("llama", fresh)
        detach(fresh)
    torch.testing.assert_close(outputs[1.0], expected, **FLOAT32_OUTPUT)
    torch.testing.assert_close(outputs[0.0], base, **FLOAT32_OUTPUT)
    assert not torch.equal(outputs[0.5], outputs[1.0])


@pytest.mark.parametrize("method", UNSCALABLE)
def test_a_change_that_cannot_be_scaled_is_refused_by_name(method, tmp_path):
    model = trained(method, "llama", torch.float32)
    save(tmp_path / "adapter", method, model)
    with pytest.raises(StudioError, match=f"strength must be 1 for {method}.*got 0.5"):
        load_adapter(tmp_path / "adapter", {"model": make(FAMILIES["llama"])}, 0.5)


@pytest.mark.parametrize("method", SPECS)
def test_the_fingerprint_of_a_base_is_the_same_under_every_adapter(method):
    model = make(FAMILIES["llama"])
    bare = fingerprint(model)
    attach(model, FAMILIES["llama"].targets, SPECS[method])
    assert fingerprint(model) == bare
