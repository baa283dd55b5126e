"""The remedy for a damaged file depends on where the file is, and works."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.places import GOLDEN
from support.trainer import run_trainer

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.identify import SEED_KEY
from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again
from nora_studio.scoring.compare import adapter_columns
from nora_studio.scoring.fidelity_judging import find_checkpoints
from nora_studio.sdxl.columns import content_digest
from nora_studio.sdxl.models import load_sdxl, parts_of
from nora_studio.trainer.checkpoints import read_state

DOWNLOAD = "Download it again, or export it again from its run."
UNET = Path("unet") / "adapter_model.safetensors"


@pytest.fixture
def golden(tmp_path, monkeypatch) -> Path:
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(folder)
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(StudioError) as told:
        load_adapter(path, parts_of(load_sdxl("bases/sdxl")))
    assert "\n" not in str(told.value)
    return str(told.value)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


@pytest.mark.slow
def test_a_runs_damaged_adapter_is_written_again_by_resuming(golden):
    run = Path("runs") / "mug-nora"
    before = load_file(run / "adapter" / UNET)
    for file in (UNET, Path("card.json"), Path("unet") / "adapter_config.json"):
        cut(run / "adapter" / file)
        assert refusal(run).endswith(
            f"Continue {run} with --resume, which writes its adapter again."
        )
    outcome = run_trainer("--config", str(run / "config.toml"), "--resume")
    assert outcome.status == 0, outcome.err
    after = load_file(run / "adapter" / UNET)
    assert after.keys() == before.keys()
    load_adapter(run, parts_of(load_sdxl("bases/sdxl")))


def test_the_remedy_for_a_damaged_checkpoint_is_another_one_or_a_copy(golden):
    only = Path("runs") / "mug-nora" / "checkpoints" / "step-000006"
    cut(only / UNET)
    assert refusal(only).endswith("restore it from a copy, or start another run.")
    older = shutil.copytree(only, only.with_name("step-000004"))
    assert f"Delete {only}, and continue the run from another checkpoint" in refusal(only)
    cut(older / "state.safetensors")
    with pytest.raises(StudioError, match=r"Delete .*step-000004, and continue the run"):
        read_state(older)


def test_the_remedy_for_a_damaged_file_is_to_download_or_export_it_again(golden):
    for name in ("mug.seed", "mug.kohya", "mug-lora.diffusers"):
        file = Path("files") / f"{name}.safetensors"
        content = file.read_bytes()
        for damaged in (content[:-20], b"", b"<html>", content[:8] + b"{" * 40):
            file.write_bytes(damaged)
            assert refusal(file).endswith(DOWNLOAD), name
    moved = Path(shutil.move("runs/mug-nora/adapter", "downloaded"))
    cut(moved / "card.json")
    assert refusal(moved).endswith("Restore it from a copy, or download it again.")


def changed(file: Path, tensors: dict, metadata: dict | None = None) -> Path:
    save_file(tensors, file, metadata)
    return file


def test_an_unknown_key_is_named_with_what_is_wrong_about_it(golden):
    file = Path("files") / "mug.kohya.safetensors"
    tensors = load_file(file)
    layer = next(name for name in tensors if name.endswith(".lora_up.weight"))
    ending = layer.replace(".lora_up.weight", ".lora_sideways.weight")
    odd = refusal(changed(file, tensors | {ending: tensors[layer].clone()}))
    assert f"{ending}, whose ending is not that of a LoRA's factor" in odd
    assert f"nora-studio inspect {file}" in odd
    spelled = layer.replace("_self_attn_", "_own_attn_")
    other = {name: tensor for name, tensor in tensors.items() if name != layer}
    told = refusal(changed(file, other | {spelled: tensors[layer]}))
    assert "spelled in another way" in told
    assert "another kind of base" not in told
    down = "lora_unet_input_blocks_9_attn2_to_k.lora_down.weight"
    up = down.replace("down", "up")
    old = {down: torch.ones(2, 768), up: torch.ones(8, 2)}
    told = refusal(changed(file, old))
    assert "it was made for Stable Diffusion 1.x" in told


def test_a_later_seed_file_asks_for_an_update_and_another_method_for_another_file(golden):
    from safetensors import safe_open

    file = Path("files") / "mug.seed.safetensors"
    with safe_open(file, framework="pt") as archive:
        metadata = archive.metadata()
    recipe = json.loads(metadata[SEED_KEY])
    later = json.dumps(recipe | {"version": 9})
    assert refusal(changed(file, load_file(file), metadata | {SEED_KEY: later})).endswith(
        "this release reads 1. Update nora-studio."
    )
    config = Path("runs") / "mug-lora" / "adapter" / "unet" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "XLORA"}))
    told = refusal(Path("runs") / "mug-lora")
    assert "got 'XLORA'. Use an adapter of one of these kinds." in told


def test_a_run_without_an_adapter_is_refused_with_what_it_has_instead(golden):
    with pytest.raises(StudioError, match="name one of its checkpoints"):
        open_adapter(Path("runs") / "stopped-nora").card
    shutil.rmtree("runs/stopped-nora/checkpoints/step-000004")
    with pytest.raises(StudioError, match="wait for its first checkpoint"):
        open_adapter(Path("runs") / "stopped-nora").card


def test_a_checkpoint_pruned_meanwhile_is_reported_as_such(golden, command):
    gone = Path("runs") / "stopped-nora" / "checkpoints" / "step-000002"
    status, _, err = command("generate", "--adapters", gone, "--prompts", "a [V] mug")
    assert status == 2
    assert "keeps only its newest checkpoints" in err
    assert len(err.splitlines()) == 1


def test_a_checkpoint_removed_while_measured_is_reported_in_one_line(golden):
    """As `fidelity` reads it, beside a run in training."""
    (found,) = find_checkpoints(Path("runs") / "stopped-nora", last=2)
    pipe = load_sdxl("bases/sdxl")
    (column,) = adapter_columns([found.path], with_base=False)
    shutil.rmtree(found.path)
    reads = {
        "its recipe": lambda: content_digest(pipe, column.adapters[0].adapter),
        "its weights": lambda: load_adapter(found.path, parts_of(pipe)),
        "its card": lambda: adapter_columns([found.path], with_base=False),
    }
    for name, read in reads.items():
        with pytest.raises(StudioError, match="keeps only its newest checkpoints") as told:
            read()
        assert "\n" not in str(told.value), name


def test_a_lone_file_is_to_be_downloaded_or_exported_again():
    assert get_again(Path("x.safetensors")) == DOWNLOAD
