"""The fused LoRA layer: in a step as PEFT's own layer, and PEFT's own layer outside of steps."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.tuners.lora import FusedLoraLinear, LoraFactors

WIDTH, OUT, STEPS = 24, 32, 20


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH, OUT), nn.GELU(), nn.Linear(OUT, WIDTH), nn.GELU(),
        nn.Linear(WIDTH, OUT, bias=False),
    ).double()  # fmt: skip


def adapted(by_peft: bool, dropout: float) -> nn.Sequential:
    model, targets = network(), ["0", "2", "4"]
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


def trained(by_peft: bool, dropout: float) -> tuple[list[float], list[Tensor]]:
    model = adapted(by_peft, dropout)
    parameters = list(adapter_parameters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1)
    factors = None if by_peft else LoraFactors([model])
    generator, losses = torch.Generator().manual_seed(1), []
    x = torch.randn(5, WIDTH, dtype=torch.float64, generator=generator)
    target = torch.randn(5, OUT, dtype=torch.float64, generator=generator)
    for step in range(STEPS):
        torch.manual_seed(step)  # Of dropout.
        if factors is not None:
            factors.form()
        loss = (model(x) - target).square().mean()
        loss.backward()
        if factors is not None:
            factors.drop()
        losses.append(loss.item())
        optimizer.step()
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.zero_()
    return losses, [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_with_fused_factors_equals_pefts_layer(dropout):
    losses, weights = trained(True, dropout)
    others, fused = trained(False, dropout)
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
