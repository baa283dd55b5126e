"""Every method in the table, on every model family, through `attach` and `detach`."""

import pytest
import reference
import torch
from diffusers import UNet2DConditionModel
from families import FAMILIES, make, train
from peft import PeftType
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from nora_studio.errors import StudioError
from nora_studio.methods import (
    METHODS,
    AdapterSpec,
    adapter_parameters,
    attach,
    count_parameters,
    detach,
)
from nora_studio.nora import NoraLinear

SPECS = {"lora": AdapterSpec("lora", 4), "nora": AdapterSpec("nora", 4, outer_rank=16)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

SDXL_UNET = {
    "sample_size": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "projection_class_embeddings_input_dim": 2816,
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
}
"""config.json of stabilityai/stable-diffusion-xl-base-1.0's UNet, as far as it shapes the model."""

LLAMA_1 = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008}
LLAMA_3 = LLAMA_1 | {"intermediate_size": 14336, "num_key_value_heads": 8}
FIVE = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")


def run(family: str, model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return FAMILIES[family].run(model)


def test_every_method_is_covered_here():
    assert SPECS.keys() == METHODS.keys()
    for method in METHODS.values():
        assert method.summary and len(method.paper.split(".")) == 2


@pytest.mark.parametrize("method", SPECS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_attach_starts_at_the_base_and_detach_returns_it_bitwise(method, family, dtype):
    model = make(FAMILIES[family], dtype=dtype)
    expected = run(family, model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    names = attach(model, FAMILIES[family].targets, SPECS[method])
    assert names and all(name.endswith(FAMILIES[family].targets) for name in names)
    assert all(isinstance(model.get_submodule(name), BaseTunerLayer) for name in names)
    assert torch.equal(run(family, model), expected)
    if dtype != torch.float16:  # Adam on a float16 model has no range without loss scaling
        train(FAMILIES[family], model)
        assert not torch.equal(run(family, model), expected)
    detach(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(run(family, model), expected)
    assert not hasattr(model, "peft_config") and not model._hf_peft_config_loaded
    attach(model, FAMILIES[family].targets, SPECS[method])


@pytest.mark.parametrize("method", SPECS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_float32_adapter_weights_are_trained(method, family, dtype):
    model = make(FAMILIES[family], dtype=dtype).requires_grad_(True)
    names = attach(model, FAMILIES[family].targets, SPECS[method])
    FAMILIES[family].run(model).float().square().mean().backward()
    trained = adapter_parameters(model)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert len(trained) == 2 * len(names)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in trained) == (parameter.grad is not None), name
    assert count_parameters(model) == sum(p.numel() for p in trained.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", SPECS)
def test_dropout_rests_on_a_model_in_evaluation_mode(family, method):
    model = make(FAMILIES[family])
    spec = AdapterSpec(method, 4, dropout=0.5, outer_rank=16 if method == "nora" else None)
    attach(model, FAMILIES[family].targets, spec)
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
    model = nn.Sequential(nn.Linear(24, 40))
    attach(model, ["0"], AdapterSpec("lora", 4, alpha))
    layer = model[0]
    assert isinstance(layer, LoraLayer)
    layer.lora_B["default"].weight.data.normal_(std=0.3)
    x = torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    delta = reference.lora_delta(up, down, 1.0 if alpha is None else alpha / 4)
    expected = reference.linear(x, layer.base_layer.weight, layer.base_layer.bias, delta)
    torch.testing.assert_close(model(x).double(), expected, **reference.TOLERANCE[torch.float32])


def test_nora_settings_reach_the_layer():
    model = nn.Sequential(nn.Linear(96, 80))
    attach(model, ["0"], AdapterSpec("nora", 4, 8.0, 0.25, None, "paper", "randomized"))
    layer, config = model[0], model.peft_config["default"]
    assert isinstance(layer, NoraLinear)
    assert layer.outer_rank == {"default": 64} and layer.scaling == {"default": 2.0}
    assert layer.nora_dropout["default"].p == 0.25
    assert (
        not layer.nora_inner_up_start["default"].any() and layer.get_delta_weight("default").any()
    )
    assert (config.start, config.outer) == ("paper", "randomized")
    assert config.peft_type == PeftType["NORA"]


@pytest.mark.parametrize("method", SPECS)
def test_a_second_adapter_becomes_the_trained_one_and_the_first_stays_as_it_was(method):
    family = FAMILIES["unet"]
    model = make(family)
    base = run("unet", model)
    attach(model, family.targets, SPECS[method])
    train(family, model)
    first = run("unet", model)
    weights = {name: p.clone() for name, p in adapter_parameters(model).items()}
    model.requires_grad_(True)
    attach(model, family.targets, SPECS[method], "second")
    assert all(p.requires_grad == (".second" in name) for name, p in model.named_parameters())
    assert torch.equal(run("unet", model), base)
    assert all(".second" in name for name in adapter_parameters(model))
    train(family, model)
    assert not torch.equal(run("unet", model), base)
    model.set_adapter("default")
    assert torch.equal(run("unet", model), first)
    assert all(torch.equal(p, weights[name]) for name, p in adapter_parameters(model).items())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (AdapterSpec("lora", 4), 5_806_080),
        (AdapterSpec("lora", 16), 23_224_320),
        (AdapterSpec("nora", 8, outer_rank=64), 573_440),
        (AdapterSpec("nora", 16, outer_rank=128), 2_293_760),
        (AdapterSpec("nora", 16, outer_rank=256), 4_587_520),
    ],
)
def test_sdxl_attention_has_the_published_parameter_counts(spec, expected):
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SDXL_UNET)
    names = attach(unet, ["to_q", "to_k", "to_v", "to_out.0"], spec)
    assert len(names) == 560 and count_parameters(unet) == expected
    if spec.method == "nora":
        assert expected == reference.nora_parameters(560, spec.outer_rank, spec.rank)
    else:
        layers = [unet.get_submodule(name).get_base_layer() for name in names]
        shapes = [(layer.out_features, layer.in_features) for layer in layers]
        assert expected == reference.lora_parameters(shapes, spec.rank)


@pytest.mark.parametrize(
    ("shape", "targets", "spec", "expected"),
    [
        (LLAMA_1, ("q_proj", "v_proj"), AdapterSpec("lora", 16), 8_388_608),
        (LLAMA_1, ("q_proj", "v_proj"), AdapterSpec("lora", 32), 16_777_216),
        (LLAMA_1, FIVE, AdapterSpec("nora", 32, outer_rank=800), 8_192_000),
        (LLAMA_1, FIVE, AdapterSpec("nora", 32, outer_rank=1000), 10_240_000),
        (LLAMA_3, FIVE, AdapterSpec("lora", 16), 28_311_552),
        (LLAMA_3, FIVE, AdapterSpec("nora", 32, outer_rank=700), 7_168_000),
        (LLAMA_3, FIVE, AdapterSpec("nora", 32, outer_rank=704), 7_208_960),
    ],
)
def test_llama_rows_have_the_published_parameter_counts(shape, targets, spec, expected):
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=8, num_attention_heads=32, **shape))
    attach(model, targets, spec)
    assert count_parameters(model) == expected


def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(StudioError, match=r"one of lora, nora; got 'nroa'\. Did you mean nora\?"):
        attach(make(FAMILIES["clip"]), ["q_proj"], AdapterSpec("nroa", 4))


@pytest.mark.parametrize("targets", [["to_q"], ["q_proj", "to_q"], []])
def test_a_target_that_matches_nothing_is_named_beside_real_ones(targets):
    model = make(FAMILIES["clip"])
    with pytest.raises(StudioError, match=r"(to_q|no targets).*example: .*layers\.0\.self_attn"):
        attach(model, targets, SPECS["nora"])
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (AdapterSpec("lora", 65), r"rank must be 1-64 for down_blocks\..*to_q \(64x64\); got 65"),
        (AdapterSpec("nora", 65), r"must not exceed outer_rank \(64\); got 65"),
        (AdapterSpec("nora", 8, outer_rank=96), r"outer_rank must be 8-64 for .*to_q \(64x64\)"),
        (AdapterSpec("nora", 8, outer_rank=4), r"must not exceed outer_rank \(4\); got 8"),
        (AdapterSpec("lora", 4, outer_rank=64), "settings of nora"),
        (AdapterSpec("lora", 4, start="paper"), "settings of nora"),
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
    with pytest.raises(StudioError, match="already carries a nora adapter; lora cannot"):
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
