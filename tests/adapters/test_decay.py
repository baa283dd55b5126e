"""Weight decay pulls adapters towards their start, so alone it never changes a model."""

import copy

import pytest
import reference
import torch
from support.adapted import OPTIMIZERS, weights
from support.halves import assert_interruptions_change_nothing
from support.specs import spec_of
from support.tolerances import TOLERANCE
from torch import nn

from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.optimizers import make_optimizer
from nora_studio.adapters.methods.table import METHODS
from nora_studio.trainer.averages import ScheduleFreeAverage
from nora_studio.trainer.checkpoints import CheckpointState, read_state, write_state

VARIANTS = [*((method, {}) for method in METHODS), ("nora", {"start": "paper"})]
PAIRS = [
    (method, settings, optimizer)
    for method, settings in VARIANTS
    for optimizer in (OPTIMIZERS if method != "lora-fa" else ("adamw",))
]
RATES = {"one": 1e-2, "two": 3e-3}
STARTS_AT_ZERO = {
    "lora", "lora+", "lora-fa", "rslora", "dylora", "tied-lora", "adalora", "lokr", "loha", "vera",
    "randlora", "oft",
}  # fmt: skip


def layer(method: str, seed: int = 0, **settings) -> nn.Module:
    """Two adapted linear layers; a rank that suits oft's blocks too."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 16)).requires_grad_(False)
    attach(model, ["0", "1"], spec_of(method, outer_rank=8, **settings))
    return model


def prepared(method: str, optimizer: str, weight_decay: float, **settings):
    parts = {"one": layer(method, 0, **settings), "two": layer(method, 1, **settings)}
    return parts, make_optimizer(method, parts, RATES, weight_decay, 4.0, optimizer)


def answers(parts: dict[str, nn.Module]) -> torch.Tensor:
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return torch.cat([module.eval()(x) for module in parts.values()])


def test_every_method_that_does_not_start_at_zero_declares_it():
    assert {name for name in METHODS if not METHODS[name].decays_to_start} == STARTS_AT_ZERO
    for name in set(METHODS) - STARTS_AT_ZERO:
        pieces = {p for key in adapter_parameters(layer(name)) for p in key.split(".")}
        assert METHODS[name].decays_to_start <= pieces, name


@pytest.mark.parametrize("weight_decay", [0.0, 10.0])
@pytest.mark.parametrize(("method", "settings", "optimizer"), PAIRS)
def test_without_a_gradient_decay_changes_no_bit_of_the_model(
    method, settings, optimizer, weight_decay
):
    parts, made = prepared(method, optimizer, weight_decay, **settings)
    before = answers(parts)
    for _ in range(3):
        for parameter in trained(parts):
            parameter.grad = torch.zeros_like(parameter)
        made.step()
    assert torch.equal(answers(parts), before)
    if optimizer == "schedule-free":
        with ScheduleFreeAverage(trained(parts), made).averaged():
            assert torch.equal(answers(parts), before)


@pytest.mark.parametrize("start", ["difference", "paper"])
def test_adamw_decays_the_distance_from_the_start_as_the_formula_says(start):
    parts, optimizer = prepared("nora", "adamw", 0.5, start=start)
    starts = weights(parts)
    rates = [RATES[part] for part in parts for _ in adapter_parameters(parts[part])]
    expected, moments = [s.double() for s in starts], []
    for number in range(1, 5):
        optimizer.zero_grad()
        for module in parts.values():
            (module(torch.ones(3, 16)) - 1).square().mean().backward()
        gradients = [p.grad.double() for p in trained(parts) if p.grad is not None]
        moments = moments or [(0.0, 0.0)] * len(starts)
        for i, (gradient, first, rate) in enumerate(zip(gradients, starts, rates, strict=True)):
            expected[i], moments[i] = reference.adamw_step(
                expected[i], gradient, moments[i], number, rate, 0.5, first.double()
            )
        optimizer.step()
    for weight, first, wanted in zip(weights(parts), starts, expected, strict=True):
        assert not torch.equal(weight, first)
        torch.testing.assert_close(weight.double(), wanted, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decay_pulls_the_model_back_to_the_base_and_not_past_it(optimizer):
    """A strong decay against a weak one: the same steps end nearer to the start, none at zero."""
    ends = {}
    for decay in (0.0, 30.0):
        parts, made = prepared("nora", optimizer, decay)
        starts = weights(parts)
        for _ in range(6):
            learn(parts, made)
        ends[decay] = sum((a - b).norm() for a, b in zip(weights(parts), starts, strict=True))
    assert 0 < ends[30.0] < ends[0.0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_carries_the_start(optimizer, tmp_path):
    """Another seed's start would be another goal; a resumed run keeps its own."""
    parts, first = prepared("lora-xs", optimizer, 5.0)
    again, second = prepared("lora-xs", optimizer, 5.0)
    for _ in range(2):
        for both, made in ((parts, first), (again, second)):
            learn(both, made)
    write_state(tmp_path, CheckpointState(2, second.state_dict(), {}, {}, {}))
    # Its weights have moved: what this optimizer takes for the start is none.
    third = make_optimizer("lora-xs", again, RATES, 5.0, 4.0, optimizer)
    third.load_state_dict(read_state(tmp_path).optimizer)
    for _ in range(2):
        learn(parts, first)
        learn(again, third)
    assert all(torch.equal(a, b) for a, b in zip(weights(parts), weights(again), strict=True))


def learn(parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    for module in parts.values():
        (module(torch.ones(3, 16)) - 1).square().mean().backward()
    optimizer.step()


def test_a_checkpoint_without_starts_keeps_decaying_towards_zero():
    parts, made = prepared("nora", "adamw", 0.5)
    learn(parts, made)
    state = made.state_dict()
    for values in state["state"].values():
        del values["start"]
    plain = torch.optim.AdamW([{"params": trained(parts), "lr": 1e-2}], weight_decay=0.5)
    resumed = make_optimizer("nora", parts, dict.fromkeys(parts, 1e-2), 0.5)
    ends, begun = [], weights(parts)
    for optimizer in (plain, resumed):
        optimizer.state.update({p: copy.deepcopy(made.state[p]) for p in trained(parts)})
        for parameter, value in zip(trained(parts), begun, strict=True):
            parameter.grad = torch.ones_like(parameter)
            parameter.data.copy_(value)
        optimizer.step()
        ends.append(weights(parts))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def trained(parts: dict[str, nn.Module]) -> list[nn.Parameter]:
    return [p for module in parts.values() for p in adapter_parameters(module).values()]


def test_a_resumed_run_with_decay_equals_an_uninterrupted_one(tiny_base, photo_folder, tmp_path):
    options = {"method": "nora", "start": "paper", "weight_decay": 2.0}
    assert_interruptions_change_nothing(tiny_base, photo_folder, tmp_path, (2,), **options)
