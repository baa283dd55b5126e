"""NoRA adapters can be summed into one, and replaced in place."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter as peft_hotswap
from support.adapted import adapted, config_for, layers_of, move, run
from support.families import FAMILIES, make
from support.tolerances import FLOAT32_OUTPUT, Tolerance

from nora_studio.adapters.files.hotswap import hotswap_adapter
from nora_studio.errors import StudioError

CLOSE: Tolerance = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("ranks", "outers"), [((2, 3), (16, 16)), ((2, 3), (16, 8)), ((4, 6), (16, 16))]
)
def test_weighted_sum_of_adapters_is_exact_and_saves_and_loads(family, ranks, outers, tmp_path):
    settings = [config_for(family, r, o, alpha=2.0 * r) for r, o in zip(ranks, outers, strict=True)]
    model = get_peft_model(make(FAMILIES[family]), settings[0])
    model.add_adapter("second", settings[1])
    move(model, "default", 1)
    move(model, "second", 2)
    weights = [0.75, -0.5]
    wanted = {
        name: weights[0] * layer.get_delta_weight("default").double()
        + weights[1] * layer.get_delta_weight("second").double()
        for name, layer in layers_of(model).items()
    }
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    model.add_weighted_adapter(["default", "second"], weights, "both")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trained
    for name, layer in layers_of(model).items():
        got = layer.get_delta_weight("both").double()
        torch.testing.assert_close(got, wanted[name], **FLOAT32_OUTPUT)
    model.set_adapter("both")
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    again = PeftModel.from_pretrained(make(FAMILIES[family]), tmp_path / "both")
    assert torch.equal(run(family, again), run(family, model))
    assert not torch.allclose(run(family, again), run(family, make(FAMILIES[family])), **CLOSE)


def test_adapters_on_different_layers_are_summed_layer_by_layer():
    model = get_peft_model(make(FAMILIES["llama"]), config_for("llama", target_modules=["q_proj"]))
    model.add_adapter("second", config_for("llama", target_modules=["q_proj", "up_proj"]))
    move(model)
    move(model, "second", 2)
    model.add_weighted_adapter(["default", "second"], [1.0, 2.0], "both")
    for name, layer in layers_of(model).items():
        wanted = 2.0 * layer.get_delta_weight("second")
        if "q_proj" in name:
            wanted = wanted + layer.get_delta_weight("default")
        torch.testing.assert_close(layer.get_delta_weight("both"), wanted, **FLOAT32_OUTPUT)


def test_a_sum_of_adapters_with_other_outer_factors_is_refused_and_undone():
    model = adapted("clip")
    activity = {name.removeprefix("base_model.model."): torch.linspace(0.1, 2, 32)
                for name in layers_of(model)}  # fmt: skip
    aware = config_for("clip", outer="activation", mean_abs_inputs=activity)
    model.add_adapter("aware", aware)
    keys = set(model.state_dict())
    with pytest.raises(StudioError, match=r"have different outer factors.*exact LoRAs"):
        model.add_weighted_adapter(["default", "aware"], [1.0, 1.0], "both")
    assert set(model.state_dict()) == keys and "both" not in model.peft_config
    for names, weights, new in (
        (["default", "absent"], [1.0, 1.0], "both"),
        (["default"], [1.0, 1.0], "both"),
        (["default"], [1.0], "aware"),
    ):
        with pytest.raises(StudioError, match="expected"):
            model.add_weighted_adapter(names, weights, new)
        assert set(model.state_dict()) == keys


def test_hotswap_replaces_an_adapter_in_place(tmp_path):
    one, other = (
        adapted("llama"),
        get_peft_model(make(FAMILIES["llama"]), config_for("llama", alpha=12.0)),
    )
    move(other, seed=9)
    one.save_pretrained(tmp_path / "one")
    other.save_pretrained(tmp_path / "other")
    tensors = [id(tensor) for tensor in one.state_dict(keep_vars=True).values()]
    hotswap_adapter(one, tmp_path / "other")
    assert torch.equal(run("llama", one), run("llama", other))
    assert [id(tensor) for tensor in one.state_dict(keep_vars=True).values()] == tensors
    with pytest.raises(ValueError, match="Hotswapping only supports LORA but NORA"):
        peft_hotswap(one, str(tmp_path / "one"), adapter_name="default")


def test_hotswap_refuses_what_does_not_fit_and_changes_nothing(tmp_path):
    model = adapted("llama")
    before = run("llama", model)
    adapted("llama", rank=2).save_pretrained(tmp_path / "rank")
    adapted("llama", target_modules=["q_proj"]).save_pretrained(tmp_path / "layers")
    for folder in ("rank", "layers"):
        with pytest.raises(StudioError, match="cannot replace 'default'"):
            hotswap_adapter(model, tmp_path / folder)
    assert torch.equal(run("llama", model), before)
    model.merge_adapter()
    with pytest.raises(StudioError, match="merged into"):
        hotswap_adapter(model, tmp_path / "rank")
