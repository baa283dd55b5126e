"""NoRA does what PEFT documents for every method, on real models; test_peft.py has the basics."""

import copy
import pickle
from typing import Any

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
)
from support.adapted import adapted, config_for, layers_of, move, run
from support.any_module import AnyModule
from support.families import FAMILIES, make, train
from support.tolerances import FLOAT32_SMALL, TOLERANCE, Tolerance

from nora_studio.nora import NoraConfig

CLOSE: Tolerance = {"rtol": 1e-4, "atol": 1e-4}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_auto_model_brings_base_and_adapter_from_folders(tmp_path):
    base = make(FAMILIES["llama"])
    base.save_pretrained(tmp_path / "base")
    base.config._name_or_path = base.name_or_path = str(tmp_path / "base")
    model = get_peft_model(base, config_for("llama"))
    move(model)
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(run("llama", again), run("llama", model))
    assert len(layers_of(again)) == len(layers_of(model)) == 8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("safe", [False, True])
def test_a_model_merges_and_unmerges_in_every_dtype(family, dtype, safe):
    model = adapted(family, dtype)
    expected = run(family, model)
    weights = {name: layer.base_layer.weight.clone() for name, layer in layers_of(model).items()}
    model.merge_adapter(safe_merge=safe)
    for name, layer in layers_of(model).items():
        # The weight is the dense sum to rounding; the output of a deep net in halves is looser.
        wanted = weights[name].double() + layer.get_delta_weight("default").double()
        torch.testing.assert_close(layer.base_layer.weight.double(), wanted, **TOLERANCE[dtype])
    room = {torch.float32: 1e-5, torch.bfloat16: 0.15, torch.float16: 0.01}[dtype]
    room *= float(expected.double().norm())
    assert float((run(family, model).double() - expected.double()).norm()) < room
    model.unmerge_adapter()
    for name, layer in layers_of(model).items():
        torch.testing.assert_close(layer.base_layer.weight, weights[name], **TOLERANCE[dtype])
    assert float((run(family, model).double() - expected.double()).norm()) < room


@pytest.mark.parametrize("family", FAMILIES)
def test_unload_restores_the_base_to_the_bit(family):
    expected = run(family, make(FAMILIES[family]))
    bare = adapted(family).unload()
    assert not layers_of(bare)
    assert torch.equal(run(family, bare), expected)


def test_a_second_adapter_does_not_change_the_training_of_the_first():
    model = adapted("llama")
    model.add_adapter("second", config_for("llama", rank=2))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.endswith(".default") for name in trained)
    model.set_adapter("second")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.endswith(".second") for name in trained)


def test_two_active_adapters_add_up():
    model: AnyModule = adapted("clip")
    model.add_adapter("second", config_for("clip", rank=2))
    move(model, "second", 2)
    model.base_model.set_adapter(["default", "second"])
    together = run("clip", model)
    model.base_model.set_adapter(["default"])
    model.merge_adapter(adapter_names=["default", "second"])
    torch.testing.assert_close(run("clip", model), together, **CLOSE)


@pytest.mark.parametrize("low_cpu", [False, True])
def test_rank_and_alpha_patterns_survive_a_save(low_cpu, tmp_path):
    patterns = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.*up_proj": 8.0}}
    model = adapted("llama", **patterns)
    model.save_pretrained(tmp_path)
    base = make(FAMILIES["llama"])
    again = PeftModel.from_pretrained(base, tmp_path, low_cpu_mem_usage=low_cpu)
    assert torch.equal(run("llama", again), run("llama", model))
    for name, layer in layers_of(again).items():
        assert layer.r["default"] == (2 if "v_proj" in name else 4)
        assert layer.scaling["default"] == (2.0 if "layers.1" in name and "up" in name else 1.0)


@pytest.mark.parametrize("exclude", [["layers.0.self_attn.q_proj"], r".*layers\.0.*q_proj"])
def test_excluded_modules_are_left_alone(exclude):
    model = adapted("llama", exclude_modules=exclude)
    names = layers_of(model)
    assert len(names) == 7 and not any("layers.0.self_attn.q_proj" in name for name in names)


def test_modules_to_save_are_trained_saved_and_loaded_with_the_adapter(tmp_path):
    family = FAMILIES["llama"]
    settings = config_for("llama", modules_to_save=["lm_head"])
    model: AnyModule = get_peft_model(make(family), settings)
    before = model.base_model.model.lm_head.modules_to_save["default"].weight.clone()
    train(family, model)
    head = model.base_model.model.lm_head.modules_to_save["default"].weight
    assert not torch.equal(head, before)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(make(family), tmp_path)
    assert torch.equal(run("llama", again), run("llama", model))
    merged = model.merge_and_unload()
    assert torch.equal(merged.lm_head.weight, head)


def test_one_expression_and_all_linear_choose_layers_too():
    model = adapted("llama", target_modules=r".*layers\.1.*(q|v)_proj")
    assert {name.split(".")[-3] for name in layers_of(model)} == {"1"}
    everything = adapted("llama", target_modules="all-linear")
    assert len(layers_of(everything)) == 14, "all of both blocks, not the head"


def test_none_as_targets_means_the_usual_ones_of_llama():
    model = get_peft_model(make(FAMILIES["llama"]), NoraConfig(r=2, outer_rank=8))
    assert {name.rpartition(".")[2] for name in layers_of(model)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapted_model_can_be_copied_and_pickled(family):
    model = adapted(family)
    expected = run(family, model)
    assert torch.equal(run(family, copy.deepcopy(model)), expected)
    assert torch.equal(run(family, pickle.loads(pickle.dumps(model))), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moving_a_model_to_another_dtype_moves_the_adapter_too(dtype):
    model = adapted("llama").to(dtype)
    output = run("llama", model)
    assert output.dtype == dtype and output.isfinite().all()
    model = adapted("llama", dtype).float()
    assert {p.dtype for p in get_peft_model_state_dict(model).values()} == {torch.float32}


@pytest.mark.parametrize("family", ["clip", "llama"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_of_transformers_gives_the_same_gradients(family, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = adapted(family)
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.train()
        FAMILIES[family].run(model).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, saved = gradients
    assert plain and plain.keys() == saved.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(saved[name], gradient, **FLOAT32_SMALL)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("low_cpu", [False, True])
def test_half_precision_factors_are_opt_in(dtype, low_cpu, tmp_path):
    family = FAMILIES["clip"]
    narrow: dict[str, Any] = {"autocast_adapter_dtype": False}
    model = get_peft_model(make(family, dtype=dtype), config_for("clip"), **narrow)
    base = run("clip", make(family, dtype=dtype))
    assert torch.equal(run("clip", model), base), "rounding the factors must keep the zero"
    move(model)
    assert {t.dtype for t in get_peft_model_state_dict(model).values()} == {dtype}
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(
        make(family, dtype=dtype), tmp_path, low_cpu_mem_usage=low_cpu, **narrow
    )
    assert {t.dtype for t in get_peft_model_state_dict(again).values()} == {dtype}
    assert torch.equal(run("clip", again), run("clip", model))
