"""Counts of trained parameters from shapes: the paper's and this project's own."""

import json
import sys

import pytest
import reference
import torch
from support.families import FAMILIES
from support.specs import SPECS
from support.tiny import tiny_sdxl
from torch import nn

from nora_studio.adapters.methods.attachment import attach, count_parameters, detach
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.cli import main as cli
from nora_studio.errors import StudioError
from nora_studio.sdxl.parameters import CLIP, LANGUAGE, TABLE_1, count, count_trained
from nora_studio.sdxl.shapes import BUILT_IN, shapes_of

QV = ("q_proj", "v_proj")


@pytest.fixture(scope="module")
def sdxl_unet() -> nn.Module:
    """The shapes of SDXL's UNet; whoever adapts them takes the adapter out again."""
    return shapes_of("sdxl")["unet"]


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
def test_sdxl_attention_has_the_published_parameter_counts(sdxl_unet, spec, expected):
    names = attach(sdxl_unet, ["to_q", "to_k", "to_v", "to_out.0"], spec)
    assert (len(names), count_parameters(sdxl_unet)) == (560, expected)
    if spec.method == "nora":
        assert expected == reference.nora_parameters(560, spec.outer_rank, spec.rank)
    else:
        layers = [sdxl_unet.get_submodule(name).get_base_layer() for name in names]
        shapes = [(layer.out_features, layer.in_features) for layer in layers]
        assert expected == reference.lora_parameters(shapes, spec.rank)
    detach(sdxl_unet)


def test_sdxl_is_counted_as_the_trainer_adapts_it():
    parts = count("sdxl", AdapterSpec("nora", 8, outer_rank=64))
    assert [(part.layers, part.trained) for part in parts] == [
        (560, 573_440),
        (44, 45_056),
        (128, 131_072),
    ]
    assert parts[0].base == 2_567_463_684


@pytest.mark.parametrize(
    ("model", "targets", "spec", "expected"),
    [
        ("llama-1-7b", QV, AdapterSpec("lora", 16), 8_388_608),
        ("llama-1-7b", QV, AdapterSpec("lora", 32), 16_777_216),
        ("llama-1-7b", LANGUAGE, AdapterSpec("nora", 32, outer_rank=800), 8_192_000),
        ("llama-1-7b", LANGUAGE, AdapterSpec("nora", 64, outer_rank=400), 8_192_000),
        ("llama-1-7b", LANGUAGE, AdapterSpec("nora", 16, outer_rank=1600), 8_192_000),
        ("llama-1-7b", LANGUAGE, AdapterSpec("nora", 32, outer_rank=1000), 10_240_000),
        ("llama-3-8b", LANGUAGE, AdapterSpec("lora", 16), 28_311_552),
        ("llama-3-8b", LANGUAGE, AdapterSpec("nora", 32, outer_rank=700), 7_168_000),
        ("llama-3-8b", LANGUAGE, AdapterSpec("nora", 32, outer_rank=704), 7_208_960),
    ],
)
def test_llama_rows_have_the_published_parameter_counts(model, targets, spec, expected):
    (part,) = count(model, spec, targets)
    assert part.trained == expected


def test_table_1_agrees_with_the_papers_own_column():
    for row in TABLE_1:
        assert f"{count_trained(row) / 1e6:.1f}M" == row.printed, row.label


def test_known_models_have_their_known_sizes():
    sizes = {
        name: sum(part.base for part in count(name, SPECS["lora"]))
        for name in BUILT_IN
        if name != "sdxl"
    }
    assert sizes["llama-1-7b"] == 6_738_415_616
    assert sizes["llama-3-8b"] == 8_030_261_248
    assert sizes["clip-vit-b-16"] == 149_620_737


def test_clip_is_counted_as_clip_lora_adapts_it():
    (part,) = count("clip-vit-b-16", AdapterSpec("lora", 2))
    assert part.layers == 12 * 2 * len(CLIP)
    assert part.trained == 12 * len(CLIP) * 2 * 2 * (768 + 512)


@pytest.mark.parametrize("method", SPECS)
def test_shapes_alone_give_the_count_of_the_real_model(method, tmp_path):
    model = FAMILIES["llama"].build()
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path)
    targets = list(FAMILIES["llama"].targets)
    (counted,) = count(str(tmp_path), SPECS[method], targets)
    assert counted.base == sum(parameter.numel() for parameter in model.parameters())
    assert counted.layers == len(attach(model, targets, SPECS[method]))
    assert counted.trained == count_parameters(model) > 0


def test_a_pipeline_is_counted_as_the_trainer_adapts_it(tmp_path):
    folder = tiny_sdxl(tmp_path / "sdxl")
    for file in folder.rglob("*.safetensors"):
        file.unlink()  # no weights are needed
    parts = count(str(folder), AdapterSpec("lora", 2))
    assert [part.part for part in parts] == ["unet", "text_encoder", "text_encoder_2"]
    # SDXL reads the first encoder before its last layer, which so gets no adapter.
    assert (parts[1].layers, parts[2].layers) == (4, 8)
    more = count(str(folder), AdapterSpec("lora", 2), ("attention+feedforward",))
    assert all(a.trained < b.trained for a, b in zip(parts, more, strict=True))
    (alone,) = count(str(folder / "unet"), AdapterSpec("lora", 2))
    assert alone.trained == parts[0].trained


def test_nothing_is_allocated_for_a_model_of_eight_billion():
    (model,) = shapes_of("llama-3-8b").values()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert isinstance(model, nn.Module) and torch.empty(0).device.type == "cpu"


@pytest.mark.parametrize(
    ("model", "targets", "words"),
    [
        ("llama-2", (), "expected one of sdxl, llama-1-7b.*got 'llama-2'"),
        ("llama-1-7b", ("q_projj",), "ends with q_projj. Did you mean q_proj"),
        ("llama-1-7b", ("attention",), "which stands for SDXL's layers"),
        ("sdxl", ("nothing",), "ends with nothing. Linear layers end with, for example"),
    ],
)
def test_unknown_models_and_targets_are_refused_in_one_line(model, targets, words):
    with pytest.raises(StudioError, match=words):
        count(model, AdapterSpec("lora", 4), targets)


def test_a_config_of_an_unknown_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    with pytest.raises(StudioError, match="does not describe a known model"):
        count(str(tmp_path), AdapterSpec("lora", 4))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("params", "--method", "lora", "--rank", "16"), ("lora, rank 16, on sdxl", "29,548,544")),
        (("params", "--table1"), ("8.4M", "8,388,608", "7.2M", "7,168,000")),
        (("methods",), ("tied-lora", "2311.09578", "rank: inner rank", "PEFT", "ours")),
    ],
)
def test_the_commands_print_the_counts(monkeypatch, capsys, words, told):
    monkeypatch.setattr(sys, "argv", ["nora-studio", *words])
    assert cli.main() == 0
    out = capsys.readouterr().out
    assert all(word in out for word in told), out
    assert max(len(line) for line in out.splitlines()) <= 80
