"""No pickle of a transformers or diffusers model, or of an adapter, is read."""

import shutil
from pathlib import Path

import torch
from support.adapted import adapted, run
from support.language import tiny_llama
from support.pickles import assert_refused, hub_copy, plain_pickle, trap_file
from support.tiny import tiny_adapter
from transformers import ViTConfig

from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.hotswap import hotswap_adapter
from nora_studio.scoring.dino import load_dino
from nora_studio.sdxl.models import load_sdxl, parts_of
from nora_studio.tasks.commonsense.models import load_decoder


def test_models_of_other_libraries_are_refused_by_the_name_of_their_pickle(
    tiny_base, tmp_path, sprung
):
    sdxl = Path(shutil.copytree(tiny_base, tmp_path / "sdxl"))
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        name = "pytorch_model.bin" if "text" in part else "diffusion_pytorch_model.bin"
        (file,) = (sdxl / part).glob("*.safetensors")
        kept = file.rename(tmp_path / f"{part}.safetensors")
        trap_file(file.with_name(name), sprung)
        assert_refused(lambda: load_sdxl(str(sdxl)), f"{part}/{name}", "save_pretrained")
        kept.rename(file)  # Beside the pickle: the pickle is not looked at.
    load_sdxl(str(sdxl))
    llama, dino = tiny_llama(tmp_path / "llama"), tmp_path / "dino"
    ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(dino)
    (llama / "model.safetensors").unlink()
    for folder in (llama, dino):
        trap_file(folder / "pytorch_model.bin", sprung)
    assert_refused(
        lambda: load_decoder(str(llama), torch.float32, torch.device("cpu")), "pytorch_model.bin"
    )
    assert_refused(lambda: load_dino(str(dino)), "dino/pytorch_model.bin")


def test_a_model_of_the_hub_is_refused_by_the_name_of_its_pickle(hub_cache, sprung):
    copy = hub_copy(hub_cache)
    ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(copy)
    trap_file(copy / "pytorch_model.bin", sprung)
    assert_refused(lambda: load_dino("owner/name"), "owner/name", "pytorch_model.bin")


def test_an_adapter_that_is_a_pickle_is_refused(tiny_pipe, tmp_path, sprung):
    folder = tiny_adapter(tmp_path / "adapter", tiny_pipe, "nora")
    weights = folder / "unet" / "adapter_model.safetensors"
    weights.unlink()
    trap_file(weights.with_suffix(".bin"), sprung)
    assert_refused(lambda: load_adapter(folder, parts_of(tiny_pipe)), "unet/adapter_model.bin")


def test_hotswap_refuses_a_pickle(tmp_path, sprung):
    model = adapted("llama")
    before = run("llama", model)
    model.save_pretrained(tmp_path / "other")
    weights = tmp_path / "other" / "adapter_model.safetensors"
    plain_pickle(weights, weights.with_suffix(".bin"))
    weights.unlink()
    assert_refused(lambda: hotswap_adapter(model, tmp_path / "other"), "adapter_model.bin")
    trap_file(weights.with_suffix(".bin"), sprung)
    assert_refused(lambda: hotswap_adapter(model, tmp_path / "other"), "adapter_model.bin")
    assert torch.equal(run("llama", model), before)
