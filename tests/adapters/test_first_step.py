"""The measured first step is right for every method, and reported."""

import json
import math
import re

import pytest
import reference
import torch
from support.any_module import AnyModule
from support.fewshot import coloured_folder, flags_for
from support.fewshot import train as train_fewshot
from support.language import some_rows, tiny_llama
from support.questions import run_script, words
from support.specs import spec_of
from support.tiny import tiny_clip
from support.trainer import run_trainer, tiny_arguments
from torch import Tensor, nn

from nora_studio.adapters.methods.attachment import attach
from nora_studio.adapters.methods.first_step import first_steps, format_report, limit_of
from nora_studio.adapters.methods.optimizers import make_optimizer
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.methods.table import METHODS
from nora_studio.options.recommended import recommended as for_sdxl
from nora_studio.runs.runs import Run
from nora_studio.tasks.commonsense.recommended import recommended as for_language
from nora_studio.tasks.fewshot.methods import METHODS as FEWSHOT
from nora_studio.tasks.fewshot.recommended import recommended as for_clip

TOLERANCE = 0.03
"""Of the norms, which a few power iterations find."""


def layer(method: str, weight: Tensor | None = None, spec: AdapterSpec | None = None) -> AnyModule:
    torch.manual_seed(0)
    rows, columns = (48, 32) if weight is None else weight.shape
    model: AnyModule = nn.Sequential(nn.Linear(columns, rows)).requires_grad_(False)
    if weight is not None:
        model[0].weight.data.copy_(weight)
    torch.manual_seed(0)
    attach(model, ["0"], spec or spec_of(method))
    return model


def falling(width: int, power: float) -> Tensor:
    """A weight as of a trained model: singular values falling as a power, variance 1 / width."""
    generator = torch.Generator().manual_seed(4)
    up, down = (torch.linalg.qr(torch.randn(width, width, generator=generator))[0] for _ in "ab")
    singular = torch.arange(1, width + 1) ** -power
    return (up * singular * math.sqrt(width) / singular.norm()) @ down


def measured(model: nn.Module, method: str, rate: float) -> float:
    optimizer = make_optimizer(method, {"one": model}, {"one": rate}, 0.0)
    return first_steps({"one": model}, optimizer)["one"].largest


def effective(model: AnyModule) -> Tensor:
    """The weight that a layer multiplies by, read off its answers."""
    with torch.no_grad():
        columns = model[0].get_base_layer().in_features
        return (model(torch.eye(columns)) - model(torch.zeros(1, columns))).T


@pytest.mark.parametrize("method", METHODS)
def test_the_measurement_equals_adamws_first_step(method):
    model = layer(method)
    state, kept = torch.get_rng_state(), {n: t.clone() for n, t in model.state_dict().items()}
    share = measured(model, method, 1e-3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    optimizer = make_optimizer(method, {"one": model}, {"one": 1e-3}, 0.0)
    before = effective(model)
    # One token, with the same draws: the module's documented gradient.
    generator = torch.Generator().manual_seed(0)
    token, answer = (
        torch.randn(1, width, generator=generator, dtype=torch.float64).float()
        for width in (32, 48)
    )
    (model(token) * answer).sum().backward()
    optimizer.step()
    weight = model[0].get_base_layer().weight
    actual = reference.share_moved(before, effective(model), weight)
    # LoRA-FA's own optimizer turns the gradient within the rank; its steps are as long.
    rel = 0.5 if method == "lora-fa" else TOLERANCE
    assert share == pytest.approx(actual, rel=rel)


@pytest.mark.parametrize("method", ["nora", "lora", "lora-xs"])
def test_a_half_precision_base_gives_the_same_measurement_as_float32(method):
    weight = falling(32, 0.5).bfloat16()
    whole = measured(layer(method, weight.float()), method, 1e-4)
    model: AnyModule = nn.Sequential(nn.Linear(32, 32)).requires_grad_(False).bfloat16()
    model[0].weight.data.copy_(weight)
    torch.manual_seed(0)
    attach(model, ["0"], spec_of(method))
    assert measured(model, method, 1e-4) == pytest.approx(whole, rel=TOLERANCE)
    assert model[0].get_base_layer().weight.dtype == torch.bfloat16


def test_each_groups_rate_counts_and_for_prodigy_its_first_one():
    plain = measured(layer("lora"), "lora", 1e-3)
    assert measured(layer("lora+"), "lora+", 1e-3) == pytest.approx(16 * plain, rel=1e-3)
    parts = {"one": layer("lora"), "two": layer("lora")}
    optimizer = make_optimizer(
        "lora", parts, {"one": 1.0, "two": 0.1}, 0.0, optimizer="prodigy", first_rate=1e-3
    )
    found = first_steps(parts, optimizer)
    assert found["one"].largest == pytest.approx(plain, rel=1e-3)
    assert found["two"].largest == pytest.approx(plain / 10, rel=1e-3)
    again = make_optimizer("lora", {"one": parts["one"]}, {"one": 1e-3}, 0.0)
    torch.optim.lr_scheduler.LambdaLR(again, lambda step: 0.0)  # A warm-up has begun.
    assert first_steps({"one": parts["one"]}, again)["one"].largest == pytest.approx(plain)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_every_kind_of_layer_is_measured_and_zero_or_nan_weights_are_left_out(value):
    names = ("to_q", "to_k", "to_v")
    blocks = nn.ModuleList(
        nn.ModuleDict({name: nn.Linear(8, 8, bias=False) for name in names}) for _ in range(9)
    ).requires_grad_(False)
    attach(blocks, names, AdapterSpec("lora", 2))
    optimizer = make_optimizer("lora", {"p": blocks}, {"p": 1e-3}, 0)
    assert first_steps({"p": blocks}, optimizer)["p"].layers == 6
    for name, weight in blocks.named_parameters():
        if "to_k.base_layer" in name:
            weight.data.fill_(value)
    assert first_steps({"p": blocks}, optimizer)["p"].layers == 4
    keys = nn.ModuleDict({"to_k": blocks[0]["to_k"]})  # pyright: ignore
    found = first_steps({"p": keys}, make_optimizer("lora", {"p": keys}, {"p": 1e-3}, 0))
    assert found == {}


@pytest.mark.parametrize("power", [0.3, 0.5, 0.7])
def test_noras_rate_on_a_real_clip_moves_weights_as_far_as_clip_loras(power):
    weight, shares = falling(768, power), {}
    for method in ("clip-lora", "nora"):
        usual, tuner = for_clip(method, "ViT-B-16:openai"), FEWSHOT[method].tuner
        spec = AdapterSpec(tuner, usual.rank, usual.alpha, outer_rank=usual.outer_rank)
        shares[method] = measured(layer(tuner, weight, spec), tuner, usual.rates[0])
    assert 0.5 < shares["nora"] / shares["clip-lora"] < 2


def test_the_rate_of_the_authors_code_is_warned_of_on_a_real_clip():
    model = layer("nora", falling(512, 0.5), AdapterSpec("nora", 8, outer_rank=64))
    steps = 16 * 500
    for rate, warned in ((1e-2, True), (5e-5, False)):
        optimizer = make_optimizer("nora", {"text": model}, {"text": rate}, 0.0)
        lines = format_report("nora", first_steps({"text": model}, optimizer), steps, optimizer)
        assert len(lines) == 1 + warned, lines
    assert limit_of(8000) < 0.07 < limit_of(640) < limit_of(120) == limit_of(1) == 0.25


@pytest.mark.parametrize("method", METHODS)
def test_no_starting_point_for_a_real_model_moves_weights_far_more_than_loras(method):
    """Published rates stand as published: LoRA+'s sixteenfold one, PEFT's guide's for VB-LoRA."""
    weight = falling(256, 0.4)

    def share(name: str, usual, rate: float) -> float:
        spec = AdapterSpec(
            name,
            min(usual.rank, 32),
            usual.alpha,
            outer_rank=64 if name == "nora" else None,
            total_steps=10 if name == "adalora" else None,
        )
        return measured(layer(name, weight, spec), name, rate)

    published = {"lora+": 10, "vblora": 30, "rslora": 4, "olora": 5}
    for table in (for_sdxl, for_language):
        usual, lora = table(method, "some/model"), table("lora", "some/model")
        ours, theirs = (
            share(name, own, own.learning_rate("unet"))
            for name, own in ((method, usual), ("lora", lora))
        )
        assert ours < published.get(method, 3.5) * theirs, table.__module__


LINE = r"nora: the first step moves a weight by, of its largest singular value: {} [\d.e+]+% \(at "
WARNING = (
    r"warning: nora: the learning rate of {} is too large: .* Lower --{}.learning-rate to \S+ "
)


@pytest.mark.parametrize("task", ["dreambooth", "few-shot", "commonsense"])
def test_every_trainer_reports_and_logs_the_first_step_and_warns_of_a_large_one(
    task, tiny_base, photo_folder, tmp_path
):
    runs = tmp_path / "runs"
    if task == "dreambooth":
        part, run = "unet", runs / "mug-nora"
        changes = {
            "steps": 2,
            "warmup-steps": 0,
            "unet.learning-rate": 2.0,
            "text-encoder.learning-rate": 1e-5,
        }
        changes |= {"sample-every": 0, "text-encoder-2.no-train": True}
        changes |= dict.fromkeys(
            ("text-encoder-2.rank", "text-encoder-2.learning-rate", "text-encoder-2.outer-rank")
        )
        outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, runs, "nora", changes))
        status, out, err = outcome.status, outcome.out, outcome.err
    elif task == "few-shot":
        part, run = "vision", runs / "tiny-nora"
        base, pictures = tiny_clip(tmp_path / "clip"), coloured_folder(tmp_path / "pictures")
        changes = {"steps": 1, "vision.learning_rate": 2.0, "text.learning_rate": 1e-5}
        outcome = train_fewshot(*flags_for(base, pictures, runs, method="nora", **changes))
        status, out, err = outcome.status, outcome.out, outcome.err
    else:
        part, run = "decoder", runs / "q-nora"
        data = tmp_path / "rows.json"
        data.write_text(json.dumps(some_rows(12)), encoding="utf-8")
        more = ("--method", "nora", "--steps", "1", "--decoder.outer-rank", "8")
        more += ("--decoder.learning-rate", "2.0", "--validation", "0", "--evaluate-every", "0")
        status, out, err = run_script(*words(tiny_llama(tmp_path / "llama"), data, runs, *more))
    assert status == 0, err
    assert re.search(LINE.format(part), out), out
    assert re.search(WARNING.format(part, part), out), out
    assert out.count("warning: nora") == 1
    first = Run(run).read_log()[-1]["first_step"]
    assert first[part] > 0.25
    assert all(share < 0.01 for name, share in first.items() if name != part)
