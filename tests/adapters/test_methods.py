"""Every method of the table works on every model family, through `attach` and `detach`."""

import pytest
import reference
import torch
from peft import PeftType
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from support.any_module import AnyModule
from support.families import FAMILIES, make, train
from support.specs import NEAR_ZERO, SPECS, spec_of
from support.tolerances import TOLERANCE
from torch import nn

from nora_studio.adapters.methods.attachment import (
    adapter_parameters,
    attach,
    count_parameters,
    detach,
)
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError
from nora_studio.nora import NoraLinear

PLACES = [
    ("unet", torch.float32),
    ("clip", torch.float16),
    ("clip", torch.bfloat16),
    ("llama", torch.float32),
]
"""Every family, every dtype; not every pair, for 18 methods."""


def run(family: str, model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return FAMILIES[family].run(model)


def test_the_table_describes_every_method():
    for name, method in METHODS.items():
        number, _, rest = method.paper.partition(".")
        assert len(number) == 4 and len(rest) == 5 and (number + rest).isdigit(), name
        assert method.summary and method.rank and method.origin in ("PEFT", "ours"), name


@pytest.mark.parametrize("method", SPECS)
@pytest.mark.parametrize(("family", "dtype"), PLACES)
def test_attach_starts_at_the_base_and_detach_returns_it_bitwise(method, family, dtype):
    model = make(FAMILIES[family], dtype=dtype)
    expected = run(family, model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    names = attach(model, FAMILIES[family].targets, SPECS[method])
    assert PeftType(model.peft_config["default"].peft_type).value == METHODS[method].tuner.kind
    assert names and all(name.endswith(FAMILIES[family].targets) for name in names)
    assert all(isinstance(model.get_submodule(name), BaseTunerLayer) for name in names)
    start = run(family, model)
    if method in NEAR_ZERO:
        torch.testing.assert_close(start, expected, rtol=0.05, atol=0.05)
    else:
        assert torch.equal(start, expected)
    for parameter in adapter_parameters(model).values():
        parameter.data.add_(0.1)
    assert not torch.equal(run(family, model), expected)
    detach(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(run(family, model), expected)
    assert not hasattr(model, "peft_config") and not model._hf_peft_config_loaded
    attach(model, FAMILIES[family].targets, SPECS[method])


@pytest.mark.parametrize("method", SPECS)
@pytest.mark.parametrize(("family", "dtype"), PLACES)
def test_only_float32_adapter_weights_are_trained(method, family, dtype):
    model = make(FAMILIES[family], dtype=dtype).requires_grad_(True)
    names = attach(model, FAMILIES[family].targets, SPECS[method])
    FAMILIES[family].run(model).float().square().mean().backward()
    trained = adapter_parameters(model)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    if method in ("lora", "nora"):
        assert len(trained) == 2 * len(names)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in trained) == (parameter.grad is not None), name
    assert count_parameters(model) == sum(p.numel() for p in trained.values())


@pytest.mark.parametrize("family", ["clip", "llama"])
@pytest.mark.parametrize("method", [m for m in METHODS if "dropout" in METHODS[m].settings])
def test_dropout_is_off_on_a_model_in_evaluation_mode(family, method):
    model = make(FAMILIES[family])
    attach(model, FAMILIES[family].targets, spec_of(method, dropout=0.5))
    for parameter in adapter_parameters(model).values():
        parameter.data.add_(0.1)
    assert torch.equal(run(family, model), run(family, model))
    model.train()
    assert not torch.equal(run(family, model), run(family, model))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", SPECS)
def test_training_lowers_the_loss(family, method):
    model = make(FAMILIES[family])
    attach(model, FAMILIES[family].targets, SPECS[method])
    losses = train(FAMILIES[family], model, steps=5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_lora_equals_its_formula_and_none_means_a_scale_of_one(alpha):
    model: AnyModule = nn.Sequential(nn.Linear(24, 40))
    attach(model, ["0"], AdapterSpec("lora", 4, alpha))
    layer = model[0]
    assert isinstance(model[0], LoraLayer)
    layer.lora_B["default"].weight.data.normal_(std=0.3)
    x = torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    delta = reference.lora_delta(up, down, 1.0 if alpha is None else alpha / 4)
    expected = reference.linear(x, layer.base_layer.weight, layer.base_layer.bias, delta)
    torch.testing.assert_close(model(x).double(), expected, **TOLERANCE[torch.float32])


def test_nora_settings_reach_the_layer():
    model: AnyModule = nn.Sequential(nn.Linear(96, 80))
    attach(model, ["0"], AdapterSpec("nora", 4, 8.0, 0.25, None, "paper", "randomized"))
    layer, config = model[0], model.peft_config["default"]
    assert isinstance(model[0], NoraLinear)
    assert layer.outer_rank == {"default": 64} and layer.scaling == {"default": 2.0}
    assert layer.nora_dropout["default"].p == 0.25
    assert (
        not layer.nora_inner_up_start["default"].any() and layer.get_delta_weight("default").any()
    )
    assert (config.start, config.outer) == ("paper", "randomized")
    assert config.peft_type == PeftType["NORA"]


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].several])
def test_a_second_adapter_becomes_the_trained_one_and_the_first_stays_as_it_was(method):
    family = FAMILIES["llama"]
    model = make(family)
    base = run("llama", model)
    attach(model, family.targets, SPECS[method])
    train(family, model)
    first = run("llama", model)
    weights = {name: p.clone() for name, p in adapter_parameters(model).items()}
    model.requires_grad_(True)
    attach(model, family.targets, SPECS[method], "second")
    frozen = "lora_A" if method == "lora-fa" else "nothing"
    for name, p in model.named_parameters():
        assert p.requires_grad == (".second" in name and frozen not in name), name
    if method not in NEAR_ZERO:
        assert torch.equal(run("llama", model), base)
    assert all(".second" in name for name in adapter_parameters(model))
    train(family, model)
    assert not torch.equal(run("llama", model), base)
    model.set_adapter("default")
    assert torch.equal(run("llama", model), first)
    assert all(torch.equal(p, weights[name]) for name, p in adapter_parameters(model).items())


@pytest.mark.parametrize("method", [m for m in METHODS if not METHODS[m].several])
def test_a_method_that_allows_one_adapter_refuses_a_second(method):
    model = make(FAMILIES["llama"])
    attach(model, ["q_proj"], SPECS[method])
    train(FAMILIES["llama"], model)
    expected = run("llama", model)
    with pytest.raises(StudioError, match=f"only one {method} adapter"):
        attach(model, ["v_proj"], SPECS[method], "second")
    assert torch.equal(run("llama", model), expected)


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(StudioError, match=r"one of nora, .*; got 'nroa'\. Did you mean nora\?"):
        attach(make(FAMILIES["clip"]), ["q_proj"], AdapterSpec("nroa", 4))


@pytest.mark.parametrize("targets", [["to_q"], ["q_proj", "to_q"], []])
def test_a_target_that_matches_nothing_is_refused_with_real_examples(targets):
    model = make(FAMILIES["clip"])
    with pytest.raises(StudioError, match=r"(to_q|no targets).*example: .*layers\.0\.self_attn"):
        attach(model, targets, SPECS["nora"])
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (AdapterSpec("lora", 65), r"rank must be 1-64 for down_blocks\..*to_q \(64x64\); got 65"),
        (AdapterSpec("nora", 65), r"rank must be 1-64 for down_blocks\..*\(64x64\); got 65"),
        (AdapterSpec("nora", 8, outer_rank=96), r"outer_rank must be at most 64 for .*\(64x64\)"),
        (AdapterSpec("nora", 8, outer_rank=4), r"must not exceed outer_rank \(4\); got 8"),
        (AdapterSpec("lora", 4, outer_rank=64), "outer_rank: not among .* lora, but of nora"),
        (AdapterSpec("dora", 4, start="paper"), "start: not among .* dora, but of nora"),
        (AdapterSpec("oft", 4, alpha=2.0), "alpha: not among the settings of oft"),
        (AdapterSpec("lokr", 4, dropout=0.1), "dropout: not among the settings of lokr"),
        (AdapterSpec("lora", 4, total_steps=9), "total_steps: not among .* but of adalora"),
        (AdapterSpec("adalora", 4), "total_steps must be 1 or more; got None"),
        (AdapterSpec("oft", 24), r"divide the 64 inputs of .*got 24.*do: 2, 4, 8, 16, 32, 64"),
        (AdapterSpec("lora-xs", 65), "rank must be 1-64"),
        (AdapterSpec("nora", 4, start="zero"), "one of difference, paper"),
        (AdapterSpec("nora", 4, outer="activation"), "needs statistics"),
    ],
)
def test_settings_that_do_not_fit_are_refused_and_the_model_is_untouched(spec, words):
    model = make(FAMILIES["unet"])
    keys = list(model.state_dict())
    with pytest.raises(StudioError, match=words):
        attach(model, FAMILIES["unet"].targets, spec)
    assert list(model.state_dict()) == keys and not hasattr(model, "peft_config")


@pytest.mark.parametrize(
    "settings", [{"rank": 0}, {"rank": 2.5}, {"rank": 4, "alpha": 0}, {"rank": 4, "dropout": 1.0}]
)
def test_impossible_specs_are_refused_at_once(settings):
    with pytest.raises(StudioError, match="must be"):
        AdapterSpec("lora", **settings)


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_failure_half_way_leaves_earlier_adapters_alone():
    family = FAMILIES["unet"]
    model = make(family)
    attach(model, ["to_q"], SPECS["nora"], "first")
    train(family, model)
    expected, keys = run("unet", model), list(model.state_dict())
    last = [m for n, m in model.named_modules() if n.endswith("to_v")][-1]
    last.weight.data.zero_()
    changed = run("unet", model)
    with pytest.raises(StudioError, match=r"to_v: the 64x64 weight is all zeros"):
        attach(model, family.targets, SPECS["nora"], "second")
    assert list(model.state_dict()) == keys and list(model.peft_config) == ["first"]
    assert torch.equal(run("unet", model), changed) and not torch.equal(changed, expected)
    assert all(name.endswith(".first") for name in adapter_parameters(model))


def test_convolutions_are_refused():
    with pytest.raises(StudioError, match="conv_in is a Conv2d"):
        attach(make(FAMILIES["unet"]), ["conv_in"], SPECS["lora"])


def test_methods_do_not_mix_and_names_do_not_clash():
    model = make(FAMILIES["clip"])
    attach(model, ["q_proj"], SPECS["nora"])
    with pytest.raises(StudioError, match="already carries a nora adapter; lora cannot be added"):
        attach(model, ["v_proj"], SPECS["lora"], "second")
    with pytest.raises(StudioError, match="already carries an adapter named 'default'"):
        attach(model, ["q_proj"], SPECS["nora"])


@pytest.mark.parametrize("method", SPECS)
def test_a_merged_adapter_blocks_attach_and_detach(method):
    model = make(FAMILIES["clip"])
    names = attach(model, ["q_proj"], SPECS[method])
    model.get_submodule(names[0]).merge()
    with pytest.raises(StudioError, match="default is merged"):
        detach(model)
    with pytest.raises(StudioError, match="default merged into its weight"):
        attach(model, ["q_proj"], SPECS[method], "second")
    model.get_submodule(names[0]).unmerge()
    detach(model)
