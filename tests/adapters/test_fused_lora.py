"""The fused LoRA layer: in a step as PEFT's own layer, and PEFT's own layer outside of steps."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from support.stacked import TARGETS, WIDTH, network, trained
from torch import nn

from nora_studio.adapters.methods.attachment import attach
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.tuners.lora import FusedLoraLinear, LoraFactors


def adapted(by_peft: bool, dropout: float) -> nn.Sequential:
    model, targets = network(), TARGETS
    if by_peft:
        config = LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules=targets)
        inject_adapter_in_model(config, model)
    else:
        attach(model, targets, AdapterSpec("lora", 4, alpha=6, dropout=dropout))
    for name in targets:
        layer = model.get_submodule(name)
        assert type(layer) is (Linear if by_peft else FusedLoraLinear)
        with torch.no_grad():
            for index, factor in enumerate((layer.lora_A, layer.lora_B)):  # type: ignore
                generator = torch.Generator().manual_seed(index)
                weight = factor["default"].get_parameter("weight")
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.train()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_with_fused_factors_equals_pefts_layer(dropout):
    losses, weights = trained(adapted(True, dropout), None, 0.02)
    model = adapted(False, dropout)
    others, fused = trained(model, LoraFactors([model]), 0.02)
    assert losses[-1] < 0.9 * losses[0]
    assert others == pytest.approx(losses, rel=1e-12)
    for one, other in zip(weights, fused, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_outside_a_step_it_is_pefts_layer():
    model, reference = adapted(False, 0.0).eval(), adapted(True, 0.0).eval()
    x = torch.randn(3, WIDTH, dtype=torch.float64)
    factors = LoraFactors([model])
    assert torch.equal(model(x), reference(x))
    factors.form()
    with torch.no_grad():  # As a preview within a step would.
        assert torch.equal(model(x), reference(x))
    factors.drop()
    assert torch.equal(model(x), reference(x))


def test_factors_that_are_frozen_are_left_to_peft():
    model = network()
    attach(model, ["0"], AdapterSpec("lora-fa", 4))
    assert isinstance(model[0], FusedLoraLinear)
    assert LoraFactors([model]).stacks == []
    for name in ("rslora", "lora+"):
        model = network()
        attach(model, ["0"], AdapterSpec(name, 4))
        assert len(LoraFactors([model]).stacks) == 2
