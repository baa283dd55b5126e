"""Portable LoRAs give the adapter's own images through other tools' loaders."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import lora_delta, nora_delta
from safetensors import safe_open
from safetensors.torch import load_file
from support.specs import spec_of
from support.tiny import RARE_TOKEN, SIZE, tiny_adapter
from support.tolerances import FLOAT32, FLOAT32_SMALL, FLOAT64_SUMS

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.metadata import portable_metadata
from nora_studio.adapters.files.names import LayerNames
from nora_studio.adapters.files.portable import DTYPES, STYLES, write_portable
from nora_studio.adapters.files.updates import (
    error_of,
    mix,
    read_updates,
    with_rank,
)
from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.runs.tensor_files import write_tensors
from nora_studio.sdxl.generate import generate_images
from nora_studio.sdxl.models import load_sdxl, parts_of, targets_for

PROMPT = "a photo of a [V] mug"


def picture(pipe, size: int = SIZE, trigger: str = RARE_TOKEN) -> np.ndarray:
    drawn = generate_images(pipe, [PROMPT], [0], steps=2, guidance=5, size=size, trigger=trigger)
    return np.asarray(next(iter(drawn))[2], dtype=np.int64)


@pytest.fixture(scope="module", params=["nora", "lora"])
def adapter(request, tiny_base, tmp_path_factory) -> Path:
    """An adapter on the UNet and the first text encoder. Read only."""
    folder = tmp_path_factory.mktemp(request.param) / "adapter"
    return tiny_adapter(folder, load_sdxl(str(tiny_base)), request.param)


def updates_and_names(base: Path, adapter: Path):
    parts = parts_of(load_sdxl(str(base)))
    load_adapter(adapter, parts)
    return read_updates(parts), LayerNames(parts)


def write(base: Path, adapter: Path, file: Path, style: str, precision: str = "fp32") -> None:
    updates, names = updates_and_names(base, adapter)
    metadata = portable_metadata(
        open_adapter(adapter).card, "a title", {"unet": 4}, style == "kohya", False
    )
    write_portable(file, with_rank(updates), names, style, DTYPES[precision], metadata)


@pytest.mark.parametrize("style", STYLES)
def test_diffusers_loader_gives_the_same_image(tiny_base, adapter, tmp_path, style):
    ours, theirs = (load_sdxl(str(tiny_base)) for _ in range(2))
    bare = picture(ours)
    load_adapter(adapter, parts_of(ours))
    write(tiny_base, adapter, tmp_path / "a.safetensors", style)
    theirs.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    wanted, found = picture(ours), picture(theirs)
    assert np.abs(found - wanted).max() <= 1  # of 255 levels: rounding
    assert np.abs(wanted - bare).mean() > 1


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_the_embedded_pipeline_gives_the_same_image_through_diffusers(tmp_path, style):
    ours, theirs = load_sdxl(), load_sdxl()
    bare = picture(ours, 64, "zqp")
    torch.manual_seed(1)
    for part, module in parts_of(ours).items():
        attach(module, targets_for(part, "attention+feedforward"), spec_of("nora", 4, 16))
        for parameter in adapter_parameters(module).values():
            parameter.data += 0.15 * torch.randn_like(parameter)
        module.requires_grad_(False).eval()
    parts = parts_of(ours)
    file = tmp_path / "a.safetensors"
    write_portable(
        file, with_rank(read_updates(parts)), LayerNames(parts), style, torch.float32, {}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs.load_lora_weights(str(tmp_path), weight_name=file.name)
    wanted, found = picture(ours, 64, "zqp"), picture(theirs, 64, "zqp")
    assert np.abs(found - wanted).max() <= 1
    assert np.abs(wanted - bare).mean() > 1


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("style", STYLES)
def test_our_loader_reads_portable_files_back(tiny_base, adapter, tmp_path, style, precision):
    file = tmp_path / "a.safetensors"
    write(tiny_base, adapter, file, style, precision)
    ours, again = (load_sdxl(str(tiny_base)) for _ in range(2))
    load_adapter(adapter, parts_of(ours))
    card = load_adapter(file, parts_of(again))
    assert card.trigger == RARE_TOKEN
    limit = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 6e-3}[precision]
    wanted, found = (read_updates(parts_of(pipe)) for pipe in (ours, again))
    assert error_of(found, wanted).worst < limit
    assert {t.dtype for t in load_file(file).values()} == {DTYPES[precision]}


def test_the_file_of_a_nora_holds_the_change_of_the_formula(tiny_base, tmp_path):
    adapter = tiny_adapter(tmp_path / "adapter", load_sdxl(str(tiny_base)), "nora")
    write(tiny_base, adapter, tmp_path / "a.safetensors", "kohya")
    trained = load_file(adapter / "unet" / "adapter_model.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    layer = "mid_block.attentions.0.transformer_blocks.1.attn2.to_v"
    own = {k.rpartition(".")[2]: t for k, t in trained.items() if f"{layer}.nora" in k}
    wanted = nora_delta(
        own["nora_up"],
        own["nora_inner_up"],
        own["nora_inner_down"],
        own["nora_down"],
        own["nora_inner_up_start"],
        own["nora_inner_down_start"],
        scale=1.0,
    )
    key = "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_v"
    up, down = found[f"{key}.lora_up.weight"], found[f"{key}.lora_down.weight"]
    assert up.shape[1] == 2 * 2  # twice the inner rank
    scale = float(found[f"{key}.alpha"]) / down.shape[0]
    assert torch.allclose(lora_delta(up, down, scale), wanted, **FLOAT32_SMALL)


def test_mixing_adds_the_changes_up_exactly(tiny_base, tmp_path):
    several = []
    for method in ("nora", "lora"):
        path = tiny_adapter(tmp_path / method, load_sdxl(str(tiny_base)), method)
        several.append(updates_and_names(tiny_base, path)[0])
    mixed = mix(several, [0.7, -0.3])
    for name, update in mixed["unet"].items():
        one, other = (updates["unet"][name] for updates in several)
        assert update.rank == one.rank + other.rank
        wanted = 0.7 * one.dense() - 0.3 * other.dense()
        assert torch.allclose(update.dense(), wanted, **FLOAT64_SUMS)


@pytest.mark.parametrize("style", STYLES)
def test_the_metadata_says_what_tools_look_for(tiny_base, adapter, tmp_path, style):
    file = tmp_path / "a.safetensors"
    write(tiny_base, adapter, file, style)
    with safe_open(file, framework="pt") as archive:
        metadata = archive.metadata()
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.trigger_phrase"] == RARE_TOKEN
    assert metadata["modelspec.resolution"] == f"{SIZE}x{SIZE}"
    assert metadata["modelspec.title"] == "a title"
    assert "date" not in " ".join(metadata)  # two exports are the same bytes
    assert (metadata.get("ss_network_module") == "networks.lora") == (style == "kohya")
    assert json.loads(metadata["nora_studio"])["trigger"] == RARE_TOKEN


def test_shared_files_do_not_contain_a_local_path(tiny_base, adapter, tmp_path):
    from dataclasses import replace

    card = replace(open_adapter(adapter).card, model=str(tiny_base))
    metadata = portable_metadata(card, "t", {"unet": 4}, True, False)
    assert str(tiny_base.parent) not in json.dumps(metadata)
    assert json.loads(metadata["nora_studio"])["model"] == tiny_base.name


def foreign(file: Path, alpha: float | None, spelling: str) -> dict[str, torch.Tensor]:
    """A one-layer LoRA as another tool would write it; gives the change it means."""
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(64, 2, generator=generator), torch.randn(2, 64, generator=generator)
    kohya = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0"
    plain = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
    stems = {
        "kohya": (f"{kohya}.lora_up.weight", f"{kohya}.lora_down.weight"),
        "kohya on diffusers": (f"{plain}.lora_up.weight", f"{plain}.lora_down.weight"),
        "peft": (f"{place}.to_out.0.lora_B.weight", f"{place}.to_out.0.lora_A.weight"),
        "diffusers": (f"{place}.to_out.0.lora.up.weight", f"{place}.to_out.0.lora.down.weight"),
        "old diffusers": (
            f"{place}.processor.to_out_lora.up.weight",
            f"{place}.processor.to_out_lora.down.weight",
        ),
    }
    tensors = dict(zip(stems[spelling], (up, down), strict=True))
    if alpha is not None:
        tensors[f"{stems[spelling][0].partition('.')[0]}.alpha"] = torch.tensor(alpha)
    write_tensors(file, tensors)
    return {"change": (1.0 if alpha is None else alpha / 2) * up.double() @ down.double()}


@pytest.mark.parametrize(
    ("spelling", "alpha"),
    [
        ("kohya", 1.0),
        ("kohya", None),
        ("kohya on diffusers", 0.5),
        ("peft", None),
        ("diffusers", None),
        ("old diffusers", None),
    ],
)
def test_another_tools_lora_is_read_with_its_scale(tiny_pipe, tmp_path, spelling, alpha):
    file = tmp_path / "theirs.safetensors"
    wanted = foreign(file, alpha, spelling)["change"]
    card = load_adapter(file, parts_of(tiny_pipe))
    assert (card.method, card.model) == ("lora", "")
    found = read_updates(parts_of(tiny_pipe))["unet"]
    assert list(found) == ["mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"]
    assert torch.allclose(next(iter(found.values())).dense(), wanted, **FLOAT32)


@pytest.mark.parametrize(("use_rslora", "divisor"), [(False, 2), (True, 2**0.5)])
def test_alpha_in_diffusers_metadata_is_used(tiny_pipe, tmp_path, use_rslora, divisor):
    place = "mid_block.attentions.0.transformer_blocks.0.attn1"
    torch.manual_seed(0)
    factors = torch.randn(64, 2), torch.randn(2, 64)
    theirs = load_sdxl(str(tiny_pipe.name_or_path))
    layers: dict[str, torch.nn.Module | torch.Tensor] = {
        f"{place}.{layer}.lora_{side}.weight": tensor.clone()
        for layer in ("to_q", "to_v")
        for side, tensor in zip("BA", factors, strict=True)
    }
    settings = {"r": 2, "lora_alpha": 6, "alpha_pattern": {f"{place}.to_v": 1}}
    settings |= {"use_rslora": True} if use_rslora else {}
    theirs.save_lora_weights(tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=settings)
    load_adapter(tmp_path / "pytorch_lora_weights.safetensors", parts_of(tiny_pipe))
    found = read_updates(parts_of(tiny_pipe))["unet"]
    change = factors[0].double() @ factors[1].double()
    for layer, scale in (("to_q", 6 / divisor), ("to_v", 1 / divisor)):
        assert torch.allclose(found[f"{place}.{layer}"].dense(), scale * change, atol=1e-5)
