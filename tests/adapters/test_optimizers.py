"""Every optimizer changes the weights as documented, logs its rates, and resumes to the bit."""

import re
import sys

import pytest
import torch
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree
from support.adapted import OPTIMIZERS, weights
from support.halves import assert_interruptions_change_nothing, begun, go_on
from support.llama_adapters import FAMILY, adapted
from support.trainer import run_trainer, tiny_arguments, tiny_options
from torch import nn

from nora_studio.adapters.methods.attachment import adapter_parameters
from nora_studio.adapters.methods.optimizers import learning_rates, make_optimizer
from nora_studio.adapters.methods.prodigy import SharedProdigy
from nora_studio.errors import StudioError
from nora_studio.options.part_settings import part_settings
from nora_studio.options.recommended import recommended
from nora_studio.trainer.averages import ScheduleFreeAverage
from nora_studio.trainer.checkpoints import CheckpointState, read_state, write_state

RATES = {"one": 1e-2, "two": 1e-3}


def pair(method: str, optimizer: str, weight_decay: float = 0.0):
    """Two adapted parts under one optimizer."""
    parts = {"one": adapted(method), "two": adapted(method)}
    return parts, make_optimizer(method, parts, RATES, weight_decay, 4.0, optimizer)


@pytest.mark.parametrize("method", ["nora", "lora+", "vblora"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_moves_every_weight_and_resumes_to_the_bit(method, optimizer, tmp_path):
    whole, first = pair(method, optimizer, 0.1)
    halves, second = pair(method, optimizer, 0.1)
    start = weights(whole)
    for _ in range(3):
        push(whole, first)
        push(halves, second)
    assert not any(torch.equal(a, b) for a, b in zip(start, weights(whole), strict=True))
    write_state(tmp_path, CheckpointState(3, second.state_dict(), {}, {}, {}))
    third = make_optimizer(method, halves, RATES, 0.1, 4.0, optimizer)
    third.load_state_dict(read_state(tmp_path).optimizer)
    for _ in range(3):
        push(whole, first)
        push(halves, third)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(halves), strict=True))
    again = tmp_path / "again"
    again.mkdir()
    write_state(tmp_path, CheckpointState(6, first.state_dict(), {}, {}, {}))
    write_state(again, CheckpointState(6, third.state_dict(), {}, {}, {}))
    names = [folder / "state.safetensors" for folder in (tmp_path, again)]
    assert names[0].read_bytes() == names[1].read_bytes()


def push(parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """One step of all parts; the gradients stay."""
    optimizer.zero_grad()
    for module in parts.values():
        (FAMILY.run(module) - 1).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(name, marks=() if name in ("adamw", "prodigy") else pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    optimizer, tiny_base, photo_folder, tmp_path
):
    options = {"optimizer": optimizer, "warmup_steps": 2, "dropout": 0.1, "method": "nora"}
    assert_interruptions_change_nothing(tiny_base, photo_folder, tmp_path, (2,), **options)


def test_adapters_moments_are_kept_in_8_bits():
    ends = {}
    for name in ("adamw", "adamw8bit"):
        parts = {"one": adapted("lora", rank=16)}
        optimizer = make_optimizer("lora", parts, {"one": 1e-2}, 0.0, optimizer=name)
        for _ in range(5):
            push(parts, optimizer)
        ends[name] = torch.cat([weight.flatten() for weight in weights(parts)])
    kinds = {optimizer.state[p]["state1"].dtype for p in adapter_parameters(parts["one"]).values()}
    assert kinds == {torch.uint8}
    assert not torch.equal(ends["adamw"], ends["adamw8bit"])
    assert (ends["adamw"] - ends["adamw8bit"]).abs().mean() < 1e-3


def test_lion_steps_by_the_sign_with_decoupled_decay():
    parts, optimizer = pair("nora", "lion", 0.5)
    starts = weights(parts)
    push(parts, optimizer)
    before = weights(parts)
    optimizer.state.clear()  # No momentum: the sign is the gradient's.
    push(parts, optimizer)
    rates = [RATES[part] for part in parts for _ in adapter_parameters(parts[part])]
    grads = [p.grad for m in parts.values() for p in adapter_parameters(m).values()]
    for start, old, new, grad, rate in zip(
        starts, before, weights(parts), grads, rates, strict=True
    ):
        assert grad is not None
        expected = old - 0.5 * rate * (old - start) - rate * grad.sign()
        torch.testing.assert_close(new, expected)


def test_adafactors_rate_is_absolute_for_weights_that_start_at_zero():
    parts, optimizer = pair("lora", "adafactor")
    names = [n for m in parts.values() for n in adapter_parameters(m)]
    rates = [RATES[part] for part in parts for _ in adapter_parameters(parts[part])]
    push(parts, optimizer)
    for name, weight, rate in zip(names, weights(parts), rates, strict=True):
        if "lora_B" in name:
            assert weight.square().mean().sqrt() == pytest.approx(rate, rel=0.05)


def test_prodigy_trains_each_group_as_with_weights_divided_by_its_share():
    """Against the library's own Prodigy over p / share, in float64."""
    torch.manual_seed(0)
    goal = [torch.randn(5, 4, dtype=torch.float64) for _ in range(2)]
    shares = (1.0, 0.3)
    ours = [nn.Parameter(torch.zeros(5, 4, dtype=torch.float64)) for _ in shares]
    theirs = [nn.Parameter(torch.zeros(5, 4, dtype=torch.float64)) for _ in shares]
    groups = [
        {"params": [p], "share": s, "weight_decay": 0.1, "lr": 1.0}
        for p, s in zip(ours, shares, strict=True)
    ]
    words = {"use_bias_correction": True, "safeguard_warmup": True}
    first = SharedProdigy(groups, **words)
    second = Prodigy([{"params": theirs, "weight_decay": 0.1}], **words)
    for _ in range(200):
        first.zero_grad()
        second.zero_grad()
        losses = [(p - g).square().sum() for p, g in zip(ours, goal, strict=True)]
        torch.stack(losses).sum().backward()
        losses = [(s * q - g).square().sum() for q, s, g in zip(theirs, shares, goal, strict=True)]
        torch.stack(losses).sum().backward()
        first.step()
        second.step()
    for p, q, share in zip(ours, theirs, shares, strict=True):
        assert p.abs().max() > 1e-3
        torch.testing.assert_close(p, q * share)


def test_prodigys_frozen_weights_stay_and_do_not_make_the_rate_jump():
    torch.manual_seed(0)
    goal = torch.randn(5, 4)
    left, right = (nn.Parameter(torch.zeros(5, 4)) for _ in range(2))
    groups = [
        {"name": n, "params": [p], "share": 1.0, "lr": 1.0, "weight_decay": 0.1}
        for n, p in (("left", left), ("right", right))
    ]
    optimizer = SharedProdigy(groups)
    rates, kept = [], None
    for number in range(60):
        optimizer.zero_grad()
        (left - goal).square().sum().backward()
        if number < 20:
            (30 * (right - goal).square().sum()).backward()
        if number == 20:
            right.requires_grad_(False)
            kept = right.detach().clone()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["d"])
    assert kept is not None and torch.equal(right, kept)
    assert right.grad is None
    assert rates[25] < 1.5 * rates[19]


def test_schedule_free_gives_the_librarys_average_without_changing_the_training():
    torch.manual_seed(0)
    goal = torch.randn(6, 4)
    ours, theirs, plain = (nn.Parameter(torch.zeros(6, 4)) for _ in range(3))
    optimizers = {p: AdamWScheduleFree([p], lr=0.05, warmup_steps=3) for p in (ours, theirs, plain)}
    average = ScheduleFreeAverage([ours], optimizers[ours])
    for parameter, optimizer in optimizers.items():
        optimizer.train()
        for _ in range(10):
            optimizer.zero_grad()
            (parameter - goal).square().sum().backward()
            optimizer.step()
            if parameter is ours:
                with average.averaged(), average.averaged():
                    averaged = ours.detach().clone()
    assert torch.equal(ours, plain)
    optimizers[theirs].eval()
    assert torch.equal(averaged, theirs)
    assert not torch.equal(averaged, plain)


def test_the_log_has_the_effective_rate(tiny_base, photo_folder, tmp_path):
    options = {"optimizer": "schedule-free", "warmup_steps": 4, "method": "nora", "steps": 2}
    states, batches, plan = begun(tiny_base, photo_folder, tmp_path, **options)
    go_on(states, batches, plan)
    (row,) = states[0].run.read_log()
    assert row["learning_rate"]["unet"] == pytest.approx(0.05 * 2 / 4)  # in its warm-up
    assert "effective_learning_rate" not in row
    optimizer = make_optimizer(
        "lora+", {"one": adapted("lora+")}, {"one": 0.1}, 0.0, 4.0, "prodigy"
    )
    for group in optimizer.param_groups:
        group |= {"d": 0.01, "lr": 0.5}  # found so far, and half-way down a schedule
    assert learning_rates(optimizer) == {
        "learning_rate": pytest.approx({"one": 0.125, "one up": 0.5}),
        "effective_learning_rate": pytest.approx({"one": 0.00125, "one up": 0.005}),
    }


def test_prodigy_starts_at_a_tenth_of_the_recommended_rate_with_any_given_rate(
    tiny_base, photo_folder, tmp_path
):
    (state,), _, _ = begun(tiny_base, photo_folder, tmp_path, method="nora", optimizer="prodigy")
    groups = state.optimizer.param_groups
    assert {group["d"] for group in groups} == {recommended("nora", str(tiny_base)).unet / 10}
    assert {group["share"] for group in groups} == {1.0}


def test_lions_recommended_rate_is_a_fifth_of_adamws(tiny_base, photo_folder, tmp_path):
    rates = {}
    for optimizer in ("adamw", "lion"):
        changes = {"optimizer": optimizer, "method": "lora"}
        part = type(tiny_options(tiny_base, photo_folder, tmp_path).unet)()
        changes |= dict.fromkeys(("unet", "text_encoder", "text_encoder_2"), part)
        options = tiny_options(tiny_base, photo_folder, tmp_path, **changes)
        rates[optimizer] = part_settings(options, "lora")["unet"].learning_rate
    assert rates["lion"] == pytest.approx(rates["adamw"] / 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": "schedule-free", "schedule": "cosine"}, "--schedule cosine: .*no schedule"),
        ({"optimizer": "schedule-free", "ema": 0.9}, "--ema 0.9: .* averages its weights already"),
        ({"optimizer": "schedule-free", "method": "adalora"}, "--optimizer schedule-free: .*ranks"),
        ({"ema": 0.9, "method": "lora,adalora"}, "--ema 0.9: .*ranks that adalora prunes"),
        ({"optimizer": "lion", "method": "lora-fa"}, "--optimizer lion: lora-fa has an optimizer"),
    ],
)
def test_options_that_an_optimizer_does_not_read_are_refused(
    changes, words, tiny_base, photo_folder, tmp_path
):
    with pytest.raises(StudioError, match=words) as refusal:
        tiny_options(tiny_base, photo_folder, tmp_path, **changes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("optimizer", "library"),
    [("prodigy", "prodigyopt"), ("schedule-free", "schedulefree"), ("lion", "bitsandbytes")],
)
def test_a_missing_library_gives_one_line_with_the_remedy(
    optimizer, library, tiny_base, photo_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, library, None)
    arguments = tiny_arguments(
        tiny_base, photo_folder, tmp_path / "runs", changes={"optimizer": optimizer}
    )
    outcome = run_trainer(*arguments)
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert re.search(
        f"needs {library}.*pip install 'nora-studio\\[optimizers\\]'", outcome.errors[0]
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_schedule_free_runs_from_the_command_line_and_is_proven(tiny_base, photo_folder, tmp_path):
    changes = {"optimizer": "schedule-free", "sample-every": 2, "evaluate-every": 2}
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "nora,lora", changes)
    outcome = run_trainer(*arguments)
    assert (outcome.status, outcome.errors) == (0, []), outcome.err
    assert outcome.out.count("verified in a fresh pipeline") == 2


def test_hooks_of_prodigy_run_once_even_after_a_plain_prodigy_was_created():
    from nora_studio.adapters.methods.prodigy import SharedProdigy

    weight, calls = nn.Parameter(torch.ones(3)), []
    Prodigy([nn.Parameter(torch.ones(3))])
    optimizer = SharedProdigy([{"params": [weight], "share": 1.0, "lr": 1.0}])
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    weight.grad = torch.ones(3)
    optimizer.step()
    assert calls == ["before"]
