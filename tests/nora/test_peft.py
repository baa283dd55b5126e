"""NoRA works through PEFT's, diffusers' and transformers' calls, on three real model families."""

import json
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from peft import (
    PeftConfig,
    PeftModel,
    PeftType,
    convert_to_lora,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from support.any_module import AnyModule
from support.families import FAMILIES, make, train
from support.places import TOP
from support.tolerances import TOLERANCE, Tolerance
from torch import nn

from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig, NoraLinear, NoraModel
from nora_studio.nora.registration import register_method

FP32: Tolerance = {"rtol": 1e-4, "atol": 1e-4}


def config_for(family: str, rank: int = 4, outer_rank: int = 16, **settings) -> NoraConfig:
    targets = list(FAMILIES[family].targets)
    return NoraConfig(r=rank, outer_rank=outer_rank, target_modules=targets, **settings)


def trained(family: str, dtype: torch.dtype = torch.float32) -> PeftModel:
    model = get_peft_model(make(FAMILIES[family], dtype=dtype), config_for(family))
    train(FAMILIES[family], model)
    return model


def run(family: str, model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return FAMILIES[family].run(model)


def nora_layers(model: nn.Module) -> list[AnyModule]:
    return [module for module in model.modules() if isinstance(module, NoraLinear)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_starts_at_the_base_lowers_the_loss_and_moves_inner_factors_only(family, dtype):
    base = make(FAMILIES[family], dtype=dtype)
    expected = run(family, base)
    model = get_peft_model(base, config_for(family))
    assert torch.equal(run(family, model), expected)
    assert {layer.nora_up["default"].dtype for layer in nora_layers(model)} == {dtype}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = train(FAMILIES[family], model)
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    after = model.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    inner = {key for key in before if ".nora_inner_" in key and "_start." not in key}
    assert moved == inner and len(inner) == 2 * len(nora_layers(model))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("low_cpu", [False, True])
def test_save_and_load_is_bitwise(family, dtype, low_cpu, tmp_path):
    model = trained(family, dtype)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(
        make(FAMILIES[family], dtype=dtype), tmp_path, low_cpu_mem_usage=low_cpu
    )
    saved, loaded = get_peft_model_state_dict(model), get_peft_model_state_dict(again)
    assert saved.keys() == loaded.keys()
    for key, value in saved.items():
        assert value.dtype == loaded[key].dtype and torch.equal(value, loaded[key]), key
    assert torch.equal(run(family, model), run(family, again))
    kinds = {key.rpartition(".")[2] for key in saved}
    assert kinds == {
        "nora_up",
        "nora_down",
        "nora_inner_up",
        "nora_inner_down",
        "nora_inner_up_start",
        "nora_inner_down_start",
    }


@pytest.mark.parametrize("low_cpu", [False, True])
def test_loading_computes_no_svd(low_cpu, tmp_path):
    trained("unet").save_pretrained(tmp_path)
    base = make(FAMILIES["unet"])
    for name, module in base.named_modules():
        if name.endswith(FAMILIES["unet"].targets):
            module.weight.data.fill_(float("nan"))  # an SVD would raise
    again = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu)
    found = [torch.isfinite(m.get_delta_weight("default")).all() for m in nora_layers(again)]
    assert found and all(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("low_cpu", [False, True])
def test_injected_adapter_takes_a_state_dict_under_another_name(family, low_cpu):
    model = trained(family)
    state = {key: value.clone() for key, value in get_peft_model_state_dict(model).items()}
    base = make(FAMILIES[family])
    inject_adapter_in_model(config_for(family), base, "mug", low_cpu_mem_usage=low_cpu)
    result = set_peft_model_state_dict(base, state, "mug", low_cpu_mem_usage=low_cpu)
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "nora_" in key]
    assert torch.equal(run(family, base), run(family, model))


@pytest.mark.slow
def test_a_second_process_loads_by_folder_after_importing_the_package(tmp_path):
    trained("llama").save_pretrained(tmp_path)
    script = (
        "import sys, nora_studio\n"
        "from peft import PeftConfig\n"
        "config = PeftConfig.from_pretrained(sys.argv[1])\n"
        "print(type(config).__name__, config.r, config.outer_rank, config.peft_type.value)\n"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", script, str(tmp_path)]
    root = TOP
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    assert output.split() == ["NoraConfig", "4", "16", "NORA"]


def test_a_saved_config_is_the_same_text_every_time_and_needs_no_initialisation(tmp_path):
    config = config_for("unet", alpha=8.0, dropout=0.1, start="paper", outer="randomized")
    config.save_pretrained(str(tmp_path))
    text = json.loads((tmp_path / "adapter_config.json").read_text())
    assert text["target_modules"] == sorted(FAMILIES["unet"].targets)
    assert text["init_weights"] is False and "mean_abs_inputs" not in text
    again = PeftConfig.from_pretrained(str(tmp_path))
    for name in ("r", "outer_rank", "alpha", "dropout", "start", "outer", "target_modules"):
        assert getattr(again, name) == getattr(config, name)


@pytest.mark.parametrize("family", FAMILIES)
def test_merge_and_unload_keeps_the_output(family):
    model = trained(family)
    expected = run(family, model)
    merged = model.merge_and_unload(safe_merge=True)
    assert not any(isinstance(module, BaseTunerLayer) for module in merged.modules())
    torch.testing.assert_close(run(family, merged), expected, **FP32)
    assert not torch.allclose(run(family, make(FAMILIES[family])), expected, **FP32)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_can_be_switched_disabled_and_deleted(family):
    model = trained(family)
    first, base = run(family, model), run(family, make(FAMILIES[family]))
    model.add_adapter("second", config_for(family, rank=2, outer_rank=8))
    model.set_adapter("second")
    assert torch.equal(run(family, model), base), "a fresh adapter is still the base"
    train(FAMILIES[family], model)
    second = run(family, model)
    model.set_adapter("default")
    assert torch.equal(run(family, model), first) and not torch.equal(first, second)
    assert not torch.equal(first, base)
    with model.disable_adapter():
        assert torch.equal(run(family, model), base)
    model.set_adapter("second")
    model.delete_adapter("default")
    assert torch.equal(run(family, model), second)
    assert "default" not in model.peft_config
    assert not [key for key in model.state_dict() if key.endswith(".default")]


def test_pefts_conversion_to_lora_agrees_with_the_exact_one():
    model = trained("llama")
    _, state = convert_to_lora(model, rank=8)
    for name, layer in model.named_modules():
        if not isinstance(layer, NoraLinear):
            continue
        lora_up, lora_down = layer.lora_factors("default")
        key = name if f"{name}.lora_A.weight" in state else name.removeprefix("base_model.model.")
        converted = state[f"{key}.lora_B.weight"] @ state[f"{key}.lora_A.weight"]
        torch.testing.assert_close(converted, lora_up @ lora_down, **TOLERANCE[torch.float32])


def test_rank_and_alpha_patterns_reach_their_layers():
    config = config_for("llama", rank_pattern={"v_proj": 2}, alpha_pattern={"up_proj": 8.0})
    model = get_peft_model(make(FAMILIES["llama"]), config)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, NoraLinear)}
    assert {name.rpartition(".")[2] for name in layers} >= {"v_proj", "up_proj", "q_proj"}
    for name, layer in layers.items():
        assert layer.r["default"] == (2 if name.endswith("v_proj") else 4)
        assert layer.scaling["default"] == (2.0 if name.endswith("up_proj") else 1.0)


def test_layers_and_whole_modules_can_be_chosen():
    config = config_for("llama", layers_to_transform=[1], modules_to_save=["lm_head"])
    model = get_peft_model(make(FAMILIES["llama"]), config)
    names = [name for name, m in model.named_modules() if isinstance(m, NoraLinear)]
    assert len(names) == 4 and all(".layers.1." in name for name in names)
    assert "base_model.model.lm_head.weight" in get_peft_model_state_dict(model)


def test_activation_statistics_change_the_outer_factors():
    base = make(FAMILIES["clip"])
    names = [n for n, _ in base.named_modules() if n.endswith(FAMILIES["clip"].targets)]
    statistics = {name: torch.linspace(0.01, 2.0, 32) for name in names}
    aware = config_for("clip", outer="activation", mean_abs_inputs=statistics)
    model = get_peft_model(base, aware)
    plain = get_peft_model(make(FAMILIES["clip"]), config_for("clip"))
    assert torch.equal(run("clip", model), run("clip", plain))
    for one, other in zip(nora_layers(model), nora_layers(plain), strict=True):
        assert not torch.allclose(one.nora_down["default"], other.nora_down["default"])
    del statistics[names[2]]
    with pytest.raises(
        StudioError, match=f"{names[2]}: there are no activation statistics of this"
    ):
        get_peft_model(make(FAMILIES["clip"]), aware)


def test_diffusers_adapter_calls_work_on_a_unet():
    unet = make(FAMILIES["unet"])
    base = run("unet", unet)
    unet.add_adapter(config_for("unet"), adapter_name="mug")
    train(FAMILIES["unet"], unet)
    full = run("unet", unet)
    unet.set_adapters("mug", weights=0.5)
    half = run("unet", unet)
    unet.set_adapters("mug", weights=1.0)
    assert torch.equal(run("unet", unet), full)
    assert not torch.equal(half, full) and not torch.equal(half, base)
    unet.disable_adapters()
    assert torch.equal(run("unet", unet), base)
    unet.enable_adapters()
    unet.fuse_lora(lora_scale=0.5)
    torch.testing.assert_close(run("unet", unet), half, **FP32)
    unet.unfuse_lora()
    unet.delete_adapters("mug")
    torch.testing.assert_close(run("unet", unet), base, **FP32)


def test_diffusers_scale_argument_works_on_a_unet():
    unet = make(FAMILIES["unet"])
    base = run("unet", unet)
    unet.add_adapter(config_for("unet"))
    train(FAMILIES["unet"], unet)
    full = run("unet", unet)
    noise, text = torch.zeros(1, 4, 4, 4), torch.ones(1, 3, 64)
    conditions = {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)}

    def scaled(scale: float) -> torch.Tensor:
        kwargs = {"scale": scale}
        with torch.no_grad():
            return unet(
                noise, 5, text, added_cond_kwargs=conditions, cross_attention_kwargs=kwargs
            ).sample

    off, on = scaled(0.0), scaled(1.0)
    unet.disable_adapters()
    torch.testing.assert_close(off, scaled(1.0), **FP32)
    unet.enable_adapters()
    assert not torch.allclose(on, off) and not torch.equal(full, base)
    assert torch.equal(run("unet", unet), full), "the scale must not outlive the call"


def test_transformers_adapter_calls_work_on_a_text_encoder(tmp_path):
    text_encoder = make(FAMILIES["clip"])
    base = run("clip", text_encoder)
    text_encoder.add_adapter(config_for("clip"), "mug")
    train(FAMILIES["clip"], text_encoder)
    full = run("clip", text_encoder)
    text_encoder.save_pretrained(tmp_path)
    text_encoder.disable_adapters()
    assert torch.equal(run("clip", text_encoder), base)
    fresh = make(FAMILIES["clip"])
    fresh.load_adapter(str(tmp_path), adapter_name="loaded")
    assert torch.equal(run("clip", fresh), full)
    fresh.delete_adapter("loaded")


def test_registration_is_idempotent_and_the_member_is_whole():
    members = list(PeftType)
    register_method(NoraConfig, NoraModel)
    assert list(PeftType) == members and members.count(PeftType["NORA"]) == 1
    kinds: Any = PeftType
    assert PeftType("NORA") is PeftType["NORA"] is kinds.NORA
    assert kinds.NORA.name == "NORA" and kinds.NORA == "NORA"


def test_attaching_and_loading_give_no_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", RuntimeWarning)
        trained("clip").save_pretrained(tmp_path)
        PeftModel.from_pretrained(make(FAMILIES["clip"]), tmp_path)
