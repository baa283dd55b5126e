"""What methods do around each step: ranks that DyLoRA draws, ranks and penalty of AdaLoRA."""

import pytest
import torch
from support.any_module import AnyModule
from support.llama_adapters import FAMILY, adapted
from support.specs import SPECS, spec_of
from support.tolerances import FLOAT32, FLOAT32_FACTORS
from torch import nn

from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.table import METHODS


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    (FAMILY.run(model) - 1).square().mean().backward()
    optimizer.step()


def test_dylora_draws_one_rank_a_step_for_all_parts_and_goes_on_with_its_draws():
    parts = {"one": adapted("dylora"), "two": adapted("dylora")}
    rules = METHODS["dylora"].steps(parts, 3)

    def draws(rules, number: int) -> list[int]:
        drawn = []
        for _ in range(number):
            rules.before_step(1)
            layers = [m for p in parts.values() for m in p.modules() if hasattr(m, "sampled_rank")]
            ranks = {layer.sampled_rank["default"] for layer in layers}
            assert len(ranks) == 1
            drawn += ranks
        return drawn

    first = draws(rules, 5)
    state = {name: tensor.clone() for name, tensor in rules.state().items()}
    following = draws(rules, 20)
    assert set(following) == {1, 2, 3, 4}
    other = METHODS["dylora"].steps(parts, 99)
    other.restore(state)
    assert draws(other, 20) == following
    assert draws(METHODS["dylora"].steps(parts, 3), 5) == first


def ranks_of(model: nn.Module) -> list[int]:
    return [int(p.count_nonzero()) for n, p in adapter_parameters(model).items() if ".lora_E." in n]


def test_adalora_ends_at_its_mean_rank_by_moving_ranks_between_layers():
    steps = 40
    model = adapted("adalora", total_steps=steps)
    rules = METHODS["adalora"].steps({"unet": model}, 0)
    optimizer = torch.optim.Adam(adapter_parameters(model).values(), lr=1e-2)
    layers = len(ranks_of(model))
    for number in range(1, steps + 1):
        rules.before_step(number)
        step(model, optimizer)
        rules.after_step(number)
        optimizer.zero_grad()
        if number == 4:
            assert ranks_of(model) == [6] * layers  # half as many again, until the warm-up is over
    ranks = ranks_of(model)
    assert sum(ranks) == 4 * layers and len(set(ranks)) > 1
    assert model.peft_config["default"].rank_pattern is None  # the file keeps the shapes


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6.0, 1.5)])
def test_adaloras_scale_is_alpha_over_its_final_rank(alpha, scale):
    model = nn.Sequential(nn.Linear(12, 8)).requires_grad_(False)
    attach(model, ["0"], spec_of("adalora", alpha=alpha))
    trained = {name.split(".")[1]: p for name, p in adapter_parameters(model).items()}
    nn.init.normal_(trained["lora_E"])
    down, up = (trained[f"lora_{side}"].double() for side in "AB")
    x = torch.randn(5, 12)
    added = scale * (x.double() @ (trained["lora_E"].double() * down).T) @ up.T
    layer: AnyModule = model.eval()[0]
    torch.testing.assert_close(layer(x) - layer.base_layer(x), added.float(), **FLOAT32_FACTORS)


def test_adaloras_penalty_is_the_mean_distance_from_orthogonality():
    """Of the factors' rank x rank Gram matrices from the identity: AdaLoRA's eq. 4."""
    model = adapted("adalora")
    distances = []
    for name, factor in adapter_parameters(model).items():
        if ".lora_E." not in name:
            rows = factor.detach().double()
            rows = rows if ".lora_A." in name else rows.T
            assert rows.shape[0] == 6, "half as much again as the rank of 4"
            distances.append((rows @ rows.T - torch.eye(6, dtype=torch.float64)).norm())
    weight = model.peft_config["default"].orth_reg_weight
    expected = weight * torch.stack(distances).mean()
    penalty = METHODS["adalora"].steps({"unet": model}, 0).penalty()
    assert penalty is not None
    torch.testing.assert_close(penalty.double(), expected, **FLOAT32)


def test_adaloras_penalty_pulls_the_factors_towards_orthogonality():
    model = adapted("adalora")
    rules = METHODS["adalora"].steps({"unet": model}, 0)
    optimizer = torch.optim.Adam(adapter_parameters(model).values(), lr=1e-2)

    def penalty() -> torch.Tensor:
        found = rules.penalty()
        assert found is not None
        return found

    before = penalty().detach()
    for _ in range(30):
        optimizer.zero_grad()
        penalty().backward()
        optimizer.step()
    assert penalty() < 0.6 * before
    for other in SPECS.keys() - {"adalora"}:
        assert METHODS[other].steps({"unet": model}, 0).penalty() is None, other
