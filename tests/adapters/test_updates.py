"""Each weight's change as low-rank factors: its scale in them, cut to a rank, its true error."""

import pytest
import torch
from support.any_module import AnyModule
from support.families import FAMILIES, make
from support.specs import spec_of
from support.tolerances import FLOAT32_FACTORS
from torch import nn

from nora_studio.adapters.files.updates import (
    Update,
    canonicalize,
    dense_change,
    error_of,
    read_updates,
    with_rank,
)
from nora_studio.adapters.methods.attachment import adapter_parameters, attach, detach
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.errors import StudioError


def moved(model: nn.Module, targets: list[str], method: str, **settings) -> nn.Module:
    """Adapt a model and move every trained number away from its start."""
    attach(model, targets, spec_of(method, 2, **settings))
    torch.manual_seed(0)
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("method", ["lora", "rslora", "nora", "pissa", "tied-lora"])
def test_a_change_has_its_methods_scale_in_its_factors(method, alpha):
    """What a layer adds to the output is its change times the input, whatever alpha is."""
    model = moved(make(FAMILIES["unet"]), ["attn1.to_q"], method, alpha=alpha)
    updates = read_updates({"unet": model})["unet"]
    layers: dict[str, AnyModule] = {**tuner_layers(model)}
    for name, layer in layers.items():
        x = torch.randn(3, layer.get_base_layer().in_features)
        wanted = layer(x) - layer.get_base_layer()(x)
        found = x.double() @ updates[name].dense().T
        torch.testing.assert_close(found.float(), wanted, **FLOAT32_FACTORS)
        assert wanted.abs().max() > 1e-2


def test_cutting_the_rank_is_the_closest_and_its_error_the_true_one():
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    down = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    dense = up @ down
    singular = torch.linalg.svdvals(dense)
    cut = with_rank({"unet": {"a": Update(up, down)}}, 2)["unet"]["a"]
    assert cut.rank == 2
    miss = float((cut.dense() - dense).norm())
    assert miss == pytest.approx(float(singular[2:].norm()), rel=1e-9)
    told = error_of({"unet": {"a": cut}}, {"unet": {"a": Update(up, down)}})
    assert told.overall == pytest.approx(miss / float(dense.norm()), rel=1e-9)
    assert told.worst == pytest.approx(told.overall)
    assert torch.allclose(canonicalize(Update(up, down)).dense(), dense)


def test_layers_of_other_ranks_get_zeros_that_add_nothing():
    generator = torch.Generator().manual_seed(0)
    layers = {
        str(rank): Update(
            torch.randn(7, rank, generator=generator, dtype=torch.float64),
            torch.randn(rank, 5, generator=generator, dtype=torch.float64),
        )
        for rank in (1, 3)
    }
    settled = with_rank({"unet": layers})
    assert {update.rank for update in settled["unet"].values()} == {3}
    assert error_of(settled, {"unet": layers}).worst < 1e-12


@pytest.mark.parametrize("method", ["dora", "lokr", "oft"])
def test_a_change_that_is_no_lora_is_measured_off_the_weights(tiny_pipe, method):
    unet = tiny_pipe.unet
    before = {name: t.clone() for name, t in unet.state_dict().items()}
    attach(unet, ["attn2.to_v"], spec_of(method, 2))
    torch.manual_seed(0)
    for parameter in adapter_parameters(unet).values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    unet.requires_grad_(False).eval()
    with pytest.raises(StudioError, match="--rank"):
        read_updates({"unet": unet})
    full = read_updates({"unet": unet}, rank=64)["unet"]
    layers: dict[str, AnyModule] = {**tuner_layers(unet)}
    for name, layer in layers.items():
        x = torch.randn(3, layer.get_base_layer().in_features)
        wanted = layer(x).double() - layer.get_base_layer()(x).double()
        found = x.double() @ dense_change(name, layer).T
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-5), name
        assert torch.allclose(full[name].dense(), dense_change(name, layer), atol=1e-9)
    low = read_updates({"unet": unet}, rank=3)
    assert error_of(low, low).overall > 1e-3  # what the rank cut off counts as lost
    for name, layer in tuner_layers(unet).items():
        cut_off = torch.linalg.svdvals(dense_change(name, layer))[3:].square().sum()
        assert low["unet"][name].lost == pytest.approx(float(cut_off), rel=1e-9)
    detach(unet)
    for name, tensor in unet.state_dict().items():
        assert torch.equal(tensor, before[name]), name
