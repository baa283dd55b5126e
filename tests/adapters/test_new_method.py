"""A new method is one record: with it alone, the whole project takes the method."""

import contextlib
import copy
import json
from dataclasses import replace

import pytest
import torch
from peft import HRAConfig
from support.trainer import (
    PROMPT,
    STEPS,
    only_unet,
    run_trainer,
    tensors_of,
    tiny_arguments,
    tiny_options,
)
from torch import nn

from nora_studio.adapters.files.adapter_folders import load_adapter, save_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import adapter_parameters, attach, count_parameters
from nora_studio.adapters.methods.builders import lora
from nora_studio.adapters.methods.optimizers import make_optimizer
from nora_studio.adapters.methods.parameter_groups import one_group
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.methods.spec import AdapterSpec, Method, Shape, TrainingDefaults, Tuner
from nora_studio.adapters.methods.step_rules import PlainSteps
from nora_studio.adapters.methods.table import METHODS
from nora_studio.app.server.resource_use import least_file_sizes
from nora_studio.errors import StudioError
from nora_studio.runs.runs import Run
from nora_studio.sdxl.models import parts_of
from nora_studio.trainer.run_session import RunSession

NAME = "counted-lora"
RANK, ALPHA = 3, 6.0


class CountedSteps(PlainSteps):
    """Rules that count their calls, add to the loss, and go on counting where a run goes on."""

    def __init__(self, parts: dict[str, nn.Module], seed: int) -> None:
        self.parts, self.seed = parts, seed
        self.begun, self.ended, self.penalties = 0, 0, 0

    def before_step(self, step: int) -> None:
        self.begun += 1
        assert self.begun == step

    def after_step(self, step: int) -> None:
        assert any(p.grad is not None for m in self.parts.values() for p in m.parameters())
        self.ended += 1

    def penalty(self) -> torch.Tensor:
        self.penalties += 1
        factors = [p for m in self.parts.values() for p in m.parameters() if p.requires_grad]
        return torch.stack([factor.square().sum() for factor in factors]).sum()

    def state(self) -> dict[str, torch.Tensor]:
        return {"calls": torch.tensor([self.begun, self.ended, self.penalties])}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self.begun, self.ended, self.penalties = state["calls"].tolist()


@pytest.fixture
def made(monkeypatch) -> list[CountedSteps]:
    """The table with one record more; the list gets the rules of every run of it."""
    rules: list[CountedSteps] = []

    def steps(parts: dict[str, nn.Module], seed: int) -> CountedSteps:
        rules.append(CountedSteps(parts, seed))
        return rules[-1]

    def fits(spec: AdapterSpec, name: str, shape: Shape) -> None:
        assert spec.rank <= min(shape), name

    record = Method(
        "LoRA that counts its steps", "2106.09685", "width of the two trained factors", "PEFT",
        lora(),
        TrainingDefaults(RANK, 0.05, 0.01, alpha=ALPHA),
        TrainingDefaults(RANK, 0.05, 0.01),
        bits=frozenset({4}),
        both_factors=True,
        no_average="would not be counted",
        frozen=("lora_A",),
        fits=fits,
        after_attach=lambda model, adapter: model.register_buffer("attached", torch.ones(())),
        steps=steps,
        groups=lambda part, *rest: [{**one_group(part, *rest)[0], "weight_decay": 0.25}],
    )  # fmt: skip
    monkeypatch.setitem(METHODS, NAME, record)
    return rules


RECOMMENDED = {
    f"{part}.{name}": None
    for part in ("unet", "text-encoder", "text-encoder-2")
    for name in ("rank", "learning-rate")
}
"""Leaves the ranks and the rates to the record."""


def test_one_record_is_enough_to_train_resume_save_load_and_generate(
    made, command, tiny_base, tiny_pipe, photo_folder, tmp_path
):
    def train(steps: int, *more: str):
        changes = RECOMMENDED | {"steps": steps, "seed": 5}
        words = tiny_arguments(tiny_base, photo_folder, tmp_path, NAME, changes)
        outcome = run_trainer(*words, *more)
        assert (outcome.status, outcome.errors) == (0, []), outcome.err
        assert "verified in a fresh pipeline" in outcome.out

    train(STEPS)
    (rules,) = made
    assert (rules.begun, rules.ended, rules.seed) == (STEPS, STEPS, 5)
    assert rules.penalties == STEPS and len(rules.parts) == 3
    assert all("attached" in dict(part.named_buffers()) for part in rules.parts.values())

    # Going on: the rules come back from the checkpoint, with the counts that they had.
    train(STEPS + 2, "--resume")
    assert made[1].begun == made[1].ended == made[1].penalties == STEPS + 2

    run = tmp_path / f"mug-{NAME}"
    card = load_adapter(run, parts_of(tiny_pipe))
    assert (card.method, card.steps) == (NAME, STEPS + 2)
    assert json.loads((run / "status.json").read_text())["method"] == NAME
    layers = tuner_layers(tiny_pipe.unet)
    scales = {vars(layer)["scaling"]["default"] for layer in layers.values()}
    assert scales == {ALPHA / RANK}
    trained = dict(made[1].parts["unet"].named_parameters())
    for name, layer in layers.items():
        for factor in ("lora_A", "lora_B"):
            weight = getattr(layer, factor)["default"].weight
            kept = trained[f"{name}.{factor}.default.weight"]
            assert torch.equal(weight, kept) and kept.requires_grad == (factor == "lora_B")

    flags = ["--model", tiny_base, "--steps", 2, "--size", 32, "--seeds", 0]
    for where, adapters in (("base", []), ("adapted", ["--adapters", run])):
        words = ["generate", "--prompts", PROMPT, *adapters, *flags, "--out", tmp_path / where]
        status, _, err = command(*words)
        assert status == 0, err
    (base,), (adapted,) = ([*(tmp_path / w).rglob("*.png")] for w in ("base", "adapted"))
    assert base.read_bytes() != adapted.read_bytes()


@pytest.mark.slow
def test_one_record_declares_which_quantised_bases_it_takes(
    made, tiny_base, photo_folder, tmp_path
):
    short = only_unet(RECOMMENDED | {"steps": 2, "sample-every": 0, "checkpoint-every": 2})

    def train(bits: int):
        changes = short | {"base-bits": bits}
        return run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, NAME, changes))

    refused = train(8)
    assert refused.status == 2
    assert "--base-bits 8: expected a method that works on a base of 8 bits" in refused.errors[0]
    assert f"; got {NAME}. Leave the option out" in refused.errors[0]
    assert not made and not list(tmp_path.iterdir())
    outcome = train(4)
    assert (outcome.status, outcome.errors) == (0, []), outcome.err
    assert made[0].ended == 2 and "verified in a fresh pipeline" in outcome.out
    assert tensors_of(tmp_path / f"mug-{NAME}" / "adapter")


def test_one_record_declares_which_options_it_lacks(made, tiny_base, photo_folder, tmp_path):
    refusals = {
        "ema": (0.9, "an average of the weights would not be counted"),
        "unet.outer-rank": (
            8,
            f"--unet.outer-rank: not an option of --method {NAME}, only of nora.",
        ),
        "lora-plus-ratio": (
            4,
            f"--lora-plus-ratio: not an option of --method {NAME}, only of lora",
        ),
    }
    for name, (value, words) in refusals.items():
        changes = RECOMMENDED | {name: value}
        outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, NAME, changes))
        assert outcome.status == 2 and words in outcome.errors[0], outcome.errors
    assert not made and not list(tmp_path.iterdir())


def test_one_record_declares_its_parameter_groups(made):
    model = nn.Sequential(nn.Linear(8, 8))
    attach(model, ["0"], AdapterSpec(NAME, 2))
    (group,) = make_optimizer(NAME, {"unet": model}, {"unet": 0.5}, 0.0).param_groups
    assert (group["name"], group["lr"], group["weight_decay"]) == ("unet", 0.5, 0.25)
    assert group["params"] == [model.get_submodule("0.lora_B.default").weight]


def test_a_record_can_use_a_peft_tuner_that_no_other_record_uses(monkeypatch, tmp_path):
    """Householder reflections, with an optimizer of their own and a start that is no zero."""

    def build(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> HRAConfig:
        return HRAConfig(r=spec.rank, target_modules=targets)

    def own(parts, rates, weight_decay, more) -> torch.optim.Optimizer:
        weights = [p for p in parts["model"].parameters() if p.requires_grad]
        return torch.optim.SGD(
            [{"name": "model", "params": weights}], rates["model"], weight_decay=weight_decay
        )

    usual = TrainingDefaults(4, 0.05, 0.01)
    record = Method(
        "HRA: a chain of reflections", "2405.17484", "number of reflections", "PEFT", build,
        usual, usual,
        settings=frozenset(), decays_to_start=frozenset({"hra_u"}), optimizer=own,
        tuner=Tuner("HRA", is_sum=False),
    )  # fmt: skip
    monkeypatch.setitem(METHODS, "hra", record)
    base = nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 8))
    model, x = copy.deepcopy(base), torch.randn(5, 16)
    attach(model, ["0", "1"], AdapterSpec("hra", 4))
    with pytest.raises(StudioError, match="--optimizer lion: hra has an optimizer of its own"):
        make_optimizer("hra", {"model": model}, {"model": 0.1}, 0.0, optimizer="lion")
    optimizer = make_optimizer("hra", {"model": model}, {"model": 0.1}, weight_decay=5.0)
    begun = model(x)
    for parameter in adapter_parameters(model).values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(model(x), begun)  # Decay is towards the start.
    model(x).square().mean().backward()
    optimizer.step()
    trained = model(x).detach()
    assert not torch.allclose(trained, begun)

    prints = {"model": fingerprint(base)}
    card = AdapterCard("hra", "tiny", prints, "sks", "[V]", 8, 1, 0, count_parameters(model), "0")
    save_adapter(tmp_path / "saved", {"model": model}, card)
    fresh = copy.deepcopy(base)
    load_adapter(tmp_path / "saved", {"model": fresh})
    assert torch.equal(fresh(x), trained)
    with pytest.raises(StudioError, match="strength must be 1 for hra"):
        load_adapter(tmp_path / "saved", {"model": copy.deepcopy(base)}, strength=0.5)


@pytest.mark.slow
def test_a_run_of_a_method_that_plans_over_its_steps_is_not_extended(made, monkeypatch, tmp_path):
    settings = frozenset({"alpha", "total_steps"})
    monkeypatch.setitem(METHODS, NAME, replace(METHODS[NAME], settings=settings))
    plan = f'method = "lora,{NAME}"\nsteps = '
    for method, words in (
        (NAME, f"expected 5, with which .* {NAME} plans over all steps"),
        ("lora", None),
    ):
        run, attempt = (
            Run.create(tmp_path / f"mug-{method}", f"{plan}5\n", method=method),
            RunSession(),
        )
        run.save_checkpoint(5, lambda folder: None)
        with pytest.raises(StudioError, match=words) if words else contextlib.nullcontext():
            attempt.claim([run], f"{plan}6\n", {}, resume=True)
        attempt._release()


def test_the_studio_estimates_the_file_size_of_a_new_method(
    made, tiny_base, photo_folder, tmp_path
):
    options = tiny_options(tiny_base, photo_folder, tmp_path, method=f"{NAME},lora,lokr")
    sizes = {method: least_file_sizes(options, method) for method in options.methods}
    assert sizes[NAME] == sizes["lora"] > sizes["lokr"]
