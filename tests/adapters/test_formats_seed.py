"""Seed files are small, exact, and refused where the base does not reproduce the update."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import nora_delta
from safetensors.torch import load_file
from support.tiny import RARE_TOKEN, assert_same_tensors, states, tiny_sdxl

from nora_studio.adapters.files.adapter_folders import adapter_state, load_adapter, save_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.files.identify import CARD_KEY, SEED_KEY
from nora_studio.adapters.files.outer import TOLERANCE, deviation, probe
from nora_studio.adapters.files.seed import write_seed
from nora_studio.adapters.files.updates import error_of, read_updates
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig
from nora_studio.runs.tensor_files import write_tensors
from nora_studio.runs.tensor_headers import read_header
from nora_studio.sdxl.models import load_sdxl, parts_of, targets_for

ADAPTED = ("unet", "text_encoder")


def trained(pipe, move: float = 0.3, **settings) -> dict[str, torch.nn.Module]:
    """A NoRA on two parts, moved away from its start."""
    parts = {part: getattr(pipe, part) for part in ADAPTED}
    torch.manual_seed(3)
    for part, module in parts.items():
        attach(module, targets_for(part), AdapterSpec("nora", 2, outer_rank=8, **settings))
        for parameter in adapter_parameters(module).values():
            parameter.data += move * torch.randn_like(parameter)
        module.requires_grad_(False).eval()
    return parts


def card_for(parts) -> AdapterCard:
    prints = {part: fingerprint(module) for part, module in parts.items()}
    return AdapterCard("nora", "owner/base", prints, RARE_TOKEN, "a [V]", 32, 3, 0, 12, "0")


@pytest.fixture(scope="module")
def seed(tiny_base, tmp_path_factory) -> Path:
    """A seed file of a NoRA trained in float32. Read only."""
    parts = trained(load_sdxl(str(tiny_base)))
    file = tmp_path_factory.mktemp("seed") / "seed.safetensors"
    write_seed(file, parts, card_for(parts))
    return file


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "settings", [{}, {"start": "paper"}, {"outer": "randomized"}, {"alpha": 3}]
)
def test_a_seed_file_restores_every_factor_to_the_bit(tiny_base, tmp_path, dtype, settings):
    parts = trained(load_sdxl(str(tiny_base), dtype), **settings)
    report = write_seed(tmp_path / "s.safetensors", parts, card_for(parts))
    assert report.regeneration == report.rounding == 0
    again = load_sdxl(str(tiny_base), dtype)
    card = load_adapter(tmp_path / "s.safetensors", parts_of(again))
    assert card == card_for(parts)
    for part, module in parts.items():
        assert_same_tensors(adapter_state(getattr(again, part)), adapter_state(module))
        for name, layer in tuner_layers(module).items():
            assert tuner_layers(getattr(again, part))[name].scaling == layer.scaling  # pyright: ignore


def test_the_seed_file_of_an_untrained_adapter_changes_nothing(tiny_base, tmp_path):
    parts = trained(load_sdxl(str(tiny_base), torch.bfloat16), move=0.0)
    write_seed(tmp_path / "s.safetensors", parts, card_for(parts))
    again = load_sdxl(str(tiny_base), torch.bfloat16)
    load_adapter(tmp_path / "s.safetensors", parts_of(again))
    for part in ADAPTED:
        for layer in tuner_layers(getattr(again, part)).values():
            assert not layer.get_delta_weight("default").any()  # pyright: ignore


def test_ranks_and_scales_of_single_layers_are_restored(tiny_base, tmp_path):
    from peft import inject_adapter_in_model

    config = NoraConfig(
        r=2,
        outer_rank=8,
        alpha=5.0,
        target_modules=["to_q", "to_v"],
        rank_pattern={"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 3},
        alpha_pattern={"mid_block.attentions.0.transformer_blocks.1.attn1.to_v": 7.0},
    )
    pipe, again = (load_sdxl(str(tiny_base)) for _ in range(2))
    inject_adapter_in_model(config, pipe.unet)
    torch.manual_seed(0)
    for parameter in adapter_parameters(pipe.unet).values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    card = replace(card_for({"unet": pipe.unet}))
    write_seed(tmp_path / "s.safetensors", {"unet": pipe.unet}, card)
    load_adapter(tmp_path / "s.safetensors", parts_of(again))
    for name, layer in tuner_layers(pipe.unet).items():
        other = tuner_layers(again.unet)[name]
        assert (other.r, other.scaling) == (layer.r, layer.scaling), name  # pyright: ignore
    assert_same_tensors(adapter_state(again.unet), adapter_state(pipe.unet))


def test_half_precision_halves_the_file_and_reports_its_error(tiny_base, seed, tmp_path):
    parts = trained(load_sdxl(str(tiny_base)))
    report = write_seed(tmp_path / "h.safetensors", parts, card_for(parts), "fp16")
    assert 0 < report.rounding < 1e-3
    again = load_sdxl(str(tiny_base))
    load_adapter(tmp_path / "h.safetensors", parts_of(again))
    error = error_of(read_updates(parts_of(again)), read_updates(parts))
    assert error.worst == pytest.approx(report.rounding, rel=1e-3)
    sizes = [
        sum(t.numel() * t.element_size() for n, t in load_file(file).items() if "inner" in n)
        for file in (seed, tmp_path / "h.safetensors")
    ]
    assert sizes[0] == 2 * sizes[1]


def test_a_seed_files_tensors_are_the_trained_numbers_and_little_more(seed, tiny_base):
    parts = trained(load_sdxl(str(tiny_base)))
    numbers = sum(p.numel() for m in parts.values() for p in _inner(m))
    layers = sum(len(tuner_layers(module)) for module in parts.values())
    # Per layer: two entries of the start, four probes and the scale.
    assert sum(t.numel() for t in load_file(seed).values()) == numbers + layers * (2 + 4 + 1)


def _inner(module):
    return [p for name, p in module.named_parameters() if "nora_inner" in name]


def test_a_base_in_a_wider_dtype_restores_the_adapter(tiny_base, tmp_path):
    parts = trained(load_sdxl(str(tiny_base), torch.bfloat16))
    write_seed(tmp_path / "s.safetensors", parts, card_for(parts))
    wide = load_sdxl(str(tiny_base), torch.float32)
    load_adapter(tmp_path / "s.safetensors", parts_of(wide))
    assert error_of(read_updates(parts_of(wide)), read_updates(parts)).worst < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_base_rounded_to_a_narrower_dtype_is_refused(tiny_base, seed, dtype):
    pipe = load_sdxl(str(tiny_base), dtype)
    before = states(parts_of(pipe))
    with pytest.raises(
        StudioError, match=r"does not belong to this base.*float32.*here they are in"
    ):
        load_adapter(seed, parts_of(pipe))
    assert_same_tensors(states(parts_of(pipe)), before)


def test_another_base_is_refused_by_its_fingerprint(seed, tmp_path):
    other = load_sdxl(str(tiny_sdxl(tmp_path / "other", seed=1)))
    with pytest.raises(StudioError, match="another base"):
        load_adapter(seed, parts_of(other))


def test_a_changed_base_with_the_same_fingerprint_is_refused_by_a_probe(tiny_base, seed):
    pipe = load_sdxl(str(tiny_base))
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[1].attn2.to_v
    before = fingerprint(pipe.unet)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(layer.weight.shape, generator=generator)
    layer.weight.data += 0.02 * layer.weight.std() * noise
    if fingerprint(pipe.unet) != before:
        pytest.fail("choose a layer that no fingerprint looks at")
    with pytest.raises(StudioError, match=r"mid_block.*attn2\.to_v would differ"):
        load_adapter(seed, parts_of(pipe))


def test_a_probe_equals_the_change_projected_on_patterns_of_signs(tiny_base):
    layer = next(iter(tuner_layers(trained(load_sdxl(str(tiny_base)))["unet"]).values()))
    names = [*layer.adapter_layer_names, *layer.other_param_names[:4]]
    factors = {name: getattr(layer, name)["default"].detach() for name in names}
    order = ("nora_up", "nora_inner_up", "nora_inner_down", "nora_down")
    starts = ("nora_inner_up_start", "nora_inner_down_start")
    change = nora_delta(*(factors[name] for name in (*order, *starts)), scale=2.5)
    rows, columns = change.shape
    for number, value in enumerate(probe(factors, 2.5)):
        left = [math.cos((number * rows + i + 0.5) ** 2) for i in range(rows)]
        right = [math.cos((number * columns + i + 0.25) ** 2) for i in range(columns)]
        wanted = torch.tensor(left).sign().double() @ change @ torch.tensor(right).sign().double()
        assert float(value) == pytest.approx(float(wanted), rel=1e-9)


def test_the_probes_detect_a_flipped_sign_and_a_rotated_pair(tiny_base):
    layer = next(iter(tuner_layers(trained(load_sdxl(str(tiny_base)))["unet"]).values()))
    names = [*layer.adapter_layer_names, *layer.other_param_names[:4]]
    factors = {name: getattr(layer, name)["default"].detach() for name in names}
    probes = probe(factors, 1.0)
    assert deviation(factors, 1.0, probes) == 0
    up, down = factors["nora_up"], factors["nora_down"]
    flipped = factors | {"nora_up": torch.cat([-up[:, :1], up[:, 1:]], dim=1)}
    assert deviation(flipped, 1.0, probes) > 10 * TOLERANCE
    angle = torch.tensor(0.02)
    turn = torch.eye(8)
    turn[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    turned = factors | {"nora_up": up @ turn, "nora_down": turn.T @ down}
    assert deviation(turned, 1.0, probes) > TOLERANCE
    assert deviation(factors, 1.01, probes) > TOLERANCE


@pytest.mark.parametrize("key", ["inner_up", "start", "check"])
def test_a_tampered_number_is_refused(tiny_base, seed, tmp_path, key):
    header, tensors = read_header(seed), load_file(seed)
    tensors[f"unet.0.{key}"][5, 1] += 0.1
    write_tensors(tmp_path / "t.safetensors", tensors, header.metadata)
    with pytest.raises(StudioError, match="does not belong"):
        load_adapter(tmp_path / "t.safetensors", parts_of(load_sdxl(str(tiny_base))))


def spoil(seed: Path, file: Path, change) -> None:
    """Write a seed file whose recipe was changed."""
    header, tensors = read_header(seed), load_file(seed)
    recipe = json.loads(header.metadata[SEED_KEY])
    change(recipe)
    write_tensors(file, tensors, header.metadata | {SEED_KEY: json.dumps(recipe)})


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(version=99),
        lambda r: r.pop("parts"),
        lambda r: r["parts"]["unet"].update(dtype="F8"),
        lambda r: r["parts"]["unet"].update(outer_rank=7),
        lambda r: r["parts"]["unet"].update(outer_rank="8"),
        lambda r: r["parts"]["unet"].update(outer="imagined"),
        lambda r: r["parts"]["unet"].update(start="imagined"),
        lambda r: r["parts"]["unet"].update(layers=[]),
        lambda r: r["parts"]["unet"].update(layers=[["(a+)+$"]]),
        lambda r: r["parts"]["unet"]["layers"][0].pop(),
        lambda r: r["parts"]["unet"]["layers"][0].__setitem__(0, "no.such.layer"),
        lambda r: r["parts"]["unet"]["layers"][0].__setitem__(0, "conv_in"),
        lambda r: r["parts"]["unet"]["layers"][0].reverse(),
        lambda r: r["parts"].update(vae=r["parts"]["unet"]),
        lambda r: r["parts"]["unet"].update(surprise=1),
    ],
)
def test_a_damaged_recipe_is_refused_and_nothing_is_attached(tiny_pipe, seed, tmp_path, change):
    spoil(seed, tmp_path / "s.safetensors", change)
    before = states(parts_of(tiny_pipe))
    with pytest.raises(StudioError) as refusal:
        load_adapter(tmp_path / "s.safetensors", parts_of(tiny_pipe))
    assert "\n" not in str(refusal.value)
    assert_same_tensors(states(parts_of(tiny_pipe)), before)


def test_an_adapter_that_cannot_be_restored_is_not_written(tiny_base, tmp_path):
    file = tmp_path / "s.safetensors"
    pipe = load_sdxl(str(tiny_base))
    attach(pipe.unet, ["to_q"], AdapterSpec("lora", 2))
    with pytest.raises(StudioError, match="only a NoRA"):
        write_seed(file, {"unet": pipe.unet}, card_for({"unet": pipe.unet}))
    pipe = load_sdxl(str(tiny_base))
    parts = trained(pipe)
    layer = next(iter(tuner_layers(pipe.unet).values()))
    layer.nora_up["default"] = layer.nora_up["default"].flip(0)  # pyright: ignore
    with pytest.raises(StudioError, match="regenerated from this base change the update"):
        write_seed(file, parts, card_for(parts))
    with pytest.raises(StudioError, match="fp32 or fp16"):
        write_seed(file, parts, card_for(parts), "bf16")
    assert not file.exists()


def test_an_adapter_folder_made_from_a_seed_file_is_the_same_adapter(tiny_base, seed, tmp_path):
    pipe, again = (load_sdxl(str(tiny_base)) for _ in range(2))
    card = load_adapter(seed, parts_of(pipe))
    parts = {part: getattr(pipe, part) for part in ADAPTED}
    save_adapter(tmp_path / "adapter", parts, card)
    load_adapter(tmp_path / "adapter", parts_of(again))
    for part, module in parts.items():
        assert_same_tensors(adapter_state(getattr(again, part)), adapter_state(module))
    assert CARD_KEY in read_header(seed).metadata
