"""One run in the loop: the loss falls, the base stays as it is, and the file is the proof."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.loop import built, run_loop
from support.tiny import tiny_unet

from nora_studio.errors import StudioError
from nora_studio.nora.outer_cache import SMALLEST
from nora_studio.tasks.dreambooth.previews import generate_base_previews
from nora_studio.trainer.lifecycle import finish
from nora_studio.trainer.train_state import TrainState

PARTS = ("unet", "text_encoder", "text_encoder_2")
METHODS = ("nora", "lora")


def test_the_loss_falls_and_nothing_but_the_adapters_changes(tiny_base, photo_folder, tmp_path):
    options = {"steps": 60, "schedule": "constant"}
    task, batches, states = built(tiny_base, photo_folder, tmp_path, **options)
    subject = task.prepared.subject
    base = {
        name: (tensor, tensor.clone())
        for part in PARTS
        for name, tensor in getattr(subject.pipe, part).state_dict().items()
    }
    start = {t.label: [p.detach().clone() for p in t.parameters] for t in states}
    exam = [batches.next() for _ in range(8)]
    before = {t.label: examine(t, exam) for t in states}
    run_loop(states, batches, 60)
    for state in states:
        assert examine(state, exam) < 0.97 * before[state.label], state.label
        pairs = zip(start[state.label], state.parameters, strict=True)
        moved = [not torch.equal(a, b) for a, b in pairs]
        assert all(moved), "an adapter tensor was never trained"
        trained = {id(parameter) for parameter in state.parameters}
        for name, parameter in state.model.named_parameters():
            assert parameter.requires_grad == (id(parameter) in trained), name
            assert "nora_" in name or "lora_" in name or not parameter.requires_grad, name
            if not parameter.requires_grad:
                assert parameter.grad is None, name
    assert all(torch.equal(now, copied) for now, copied in base.values())
    assert before["nora"] == pytest.approx(before["lora"], rel=1e-4)  # both start at the base


@torch.no_grad()
def examine(state: TrainState, exam: list[dict]) -> float:
    return sum(state.model(**batch).item() for batch in exam) / len(exam)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_every_schedule_warms_up_to_its_peak(tiny_base, photo_folder, tmp_path, schedule):
    options = {"schedule": schedule, "warmup_steps": 4, "steps": 12, "method": "lora"}
    _, _, (state,) = built(tiny_base, photo_folder, tmp_path, **options)
    rates = []
    for _ in range(12):
        rates.append(state.optimizer.param_groups[0]["lr"])
        state.optimizer.step()
        state.schedule.step()
    assert rates[:5] == pytest.approx([0.05 * step / 4 for step in range(5)])
    assert max(rates) == pytest.approx(0.05)
    if schedule == "constant":
        assert rates[5:] == pytest.approx([0.05] * 7)
    else:
        assert rates[5:] == sorted(rates[5:], reverse=True)
        assert rates[-1] < 0.01


@pytest.mark.parametrize("method", ["nora", pytest.param("lora", marks=pytest.mark.slow)])
def test_the_proof_fails_if_the_file_is_not_what_was_trained(
    tiny_base, photo_folder, tmp_path, method
):
    options = {"method": method, "steps": 3}
    task, batches, states = built(tiny_base, photo_folder, tmp_path, **options)
    generate_base_previews(task.prepared.subject, states)
    run_loop(states, batches, 3)
    write = states[0].write_adapter

    def write_and_spoil(folder: Path, step: int) -> None:
        write(folder, step)
        file = folder / "unet" / "adapter_model.safetensors"
        state = load_file(file)
        trained = [n for n in state if ("inner_up" if method == "nora" else "lora_B") in n]
        for name in trained:
            state[name] = state[name] * 1.5
        save_file(state, file)

    states[0].write_adapter = write_and_spoil
    with pytest.raises(StudioError, match="generates another image"):
        finish(task, states.pop(), 3)
    status = json.loads((tmp_path / f"mug-{method}" / "status.json").read_text())
    assert status["state"] == "failed"


def test_the_proof_fails_if_nothing_was_learned(tiny_base, photo_folder, tmp_path):
    task, _, states = built(tiny_base, photo_folder, tmp_path, method="nora", steps=1)
    generate_base_previews(task.prepared.subject, states)
    with pytest.raises(StudioError, match="has no visible effect"):
        finish(task, states.pop(), 1)


@pytest.mark.parametrize("cache", [True, False])
def test_outer_factors_are_kept_on_disk_unless_forbidden(
    tiny_base, photo_folder, tmp_path, monkeypatch, cache
):
    monkeypatch.setenv("NORA_STUDIO_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    tiny_unet(widest=SMALLEST).save_pretrained(base / "unet")  # Smaller weights are not kept.
    built(base, photo_folder, tmp_path, cache=cache)
    kept = {folder.name for folder in (tmp_path / "cache").glob("*") if any(folder.iterdir())}
    assert kept == ({"outer", "latents", "text", "bases"} if cache else set())
