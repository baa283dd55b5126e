"""The trainer from end to end on a tiny SDXL: what it writes, stops and goes on with."""

import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.tiny import RARE_TOKEN, SIZE
from support.trainer import (
    METHODS,
    PROMPT,
    STEPS,
    WEIGHTS,
    ask_to_stop,
    only_unet,
    run_trainer,
    start_trainer,
    tensors_of,
    tiny_arguments,
)

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.runs.runs import Run
from nora_studio.sdxl.recipes import read_recipe

PARTS = ("unet", "text_encoder", "text_encoder_2")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_twins_finish_with_everything_a_run_holds(twins):
    runs, outcome = twins
    assert (outcome.status, outcome.errors) == (0, []), outcome.err
    assert outcome.out.count("verified in a fresh pipeline") == 2
    for method in METHODS:
        folder = runs / f"mug-{method}"
        run = Run.open(folder)
        card = open_adapter(folder).card
        assert isinstance(card, AdapterCard)
        assert (card.method, card.trigger, card.prompt) == (method, RARE_TOKEN, PROMPT)
        assert (card.steps, card.resolution) == (STEPS, SIZE)
        assert names(folder / "adapter") == ["card.json", *sorted(PARTS)]
        assert run.read_status()["state"] == "finished"
        assert run.read_status()["change"] > 0.25
        assert list(run.checkpoints()) == [4, 6]
        samples = sorted(file.name for file in (folder / "samples").iterdir())
        drawn = ["base-01.png", "step-000003-01.png", "step-000006-01.png"]
        assert samples == [*drawn, "twins.png", "wall.png"]
        total = sum(
            tensor.numel()
            for part in PARTS
            for name, tensor in load_file(folder / "adapter" / part / WEIGHTS).items()
            if method == "lora" or "inner" in name
        )
        assert card.parameters == (total if method == "lora" else total // 2)  # starts are kept too


def test_the_log_has_a_line_every_so_many_steps(twins):
    for method in METHODS:
        rows = Run.open(twins[0] / f"mug-{method}").read_log()
        assert [row["step"] for row in rows] == [2, 4, 6]
        for row in rows:
            assert 0.1 < row["loss"] < 10
            assert row["gradient_norm"] > 0
            assert row["weight_norm"] > 0
            assert set(row["learning_rate"]) == set(PARTS)
            assert row["seconds_per_step"] > 0
            assert row["memory_gib"] > 0


def test_samples_say_what_they_are_and_move(twins):
    pictures = {}
    for method in METHODS:
        folder = twins[0] / f"mug-{method}" / "samples"
        recipe = read_recipe(folder / f"step-{STEPS:06d}-01.png")
        assert (recipe.method, recipe.adapter, recipe.prompt) == (method, f"mug-{method}", PROMPT)
        assert read_recipe(folder / "base-01.png").method is None
        for name in ("base-01", f"step-{STEPS:06d}-01"):
            with Image.open(folder / f"{name}.png") as picture:
                pictures[method, name[:-3]] = picture.tobytes()
    assert pictures["nora", "base"] == pictures["lora", "base"]
    assert len(set(pictures.values())) == 3


@pytest.mark.parametrize("method", ["nora", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_twin_is_what_it_would_be_alone(twins, tiny_base, photo_folder, tmp_path, method):
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, method))
    assert outcome.status == 0, outcome.err
    alone, twin = tmp_path / f"mug-{method}", twins[0] / f"mug-{method}"
    assert tensors_of(alone / "adapter") == tensors_of(twin / "adapter")
    losses = [[row["loss"] for row in Run.open(run).read_log()] for run in (alone, twin)]
    assert losses[0] == losses[1]


def test_stopped_twins_that_go_on_end_as_if_never_stopped(tiny_base, photo_folder, tmp_path):
    changes = {"steps": 10, "log-every": 1, "checkpoint-every": 4, "sample-every": 0}
    changes |= {"dropout": 0.1}  # torch's own generator is part of what must go on
    folders = {}
    for name in ("whole", "halves"):
        arguments = tiny_arguments(
            tiny_base, photo_folder, tmp_path / name, "nora,lora", only_unet(changes)
        )
        runs = [Run(tmp_path / name / f"mug-{method}") for method in METHODS]
        folders[name] = runs
        if name == "whole":
            assert run_trainer(*arguments).status == 0
            continue
        watcher = ask_to_stop(runs, signal.SIGINT, os.getpid())
        outcome = run_trainer(*arguments)
        watcher.join()
        assert outcome.status == 128 + signal.SIGINT, outcome.err
        assert "--resume" in outcome.out
        stopped = runs[0].read_status()
        assert stopped["state"] == "stopped"
        assert 0 < stopped["step"] < 10
        assert all(max(run.checkpoints()) == stopped["step"] for run in runs)
        assert not runs[0].adapter.exists()
        outcome = run_trainer(*arguments, "--resume")
        assert outcome.status == 0, outcome.err
        assert f"Continuing after step {stopped['step']} of 10" in outcome.out
    for whole, halves in zip(folders["whole"], folders["halves"], strict=True):
        last = "checkpoints/step-000010"
        assert tensors_of(halves.folder / last) == tensors_of(whole.folder / last)
        assert len(tensors_of(halves.folder / last)) == 2  # the adapter's and the training state
        assert tensors_of(halves.adapter) == tensors_of(whole.adapter)
        assert [row["step"] for row in halves.read_log()] == list(range(1, 11))
        assert [r["loss"] for r in halves.read_log()] == [r["loss"] for r in whole.read_log()]


@pytest.mark.slow
def test_a_terminated_process_saves_and_ends_with_143(tiny_base, photo_folder, tmp_path):
    changes = only_unet({"steps": 3000, "log-every": 1, "checkpoint-every": 5000})
    process = start_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, changes=changes))
    run = Run(tmp_path / "mug-nora")
    watcher = ask_to_stop([run], signal.SIGTERM, process.pid)
    out, err = process.communicate(timeout=240)
    watcher.join()
    assert process.returncode == 143, err
    assert "Stopped by SIGTERM" in out
    assert "Traceback" not in err
    assert list(run.checkpoints()) == [run.read_status()["step"]]


@pytest.mark.slow
def test_a_finished_run_that_is_resumed_is_proven_again(twins, tiny_base, photo_folder, tmp_path):
    arguments = tiny_arguments(
        tiny_base, photo_folder, tmp_path, changes=only_unet({"steps": 2, "sample-every": 0})
    )
    assert run_trainer(*arguments).status == 0
    before = tensors_of(tmp_path / "mug-nora" / "adapter")
    outcome = run_trainer("--config", str(tmp_path / "mug-nora" / "config.toml"), "--resume")
    assert outcome.status == 0, outcome.err
    assert "Continuing after step 2 of 2" in outcome.out
    assert tensors_of(tmp_path / "mug-nora" / "adapter") == before


def test_parts_that_are_switched_off_get_no_adapter(tiny_base, photo_folder, tmp_path):
    arguments = tiny_arguments(
        tiny_base, photo_folder, tmp_path, changes=only_unet({"steps": 2, "sample-every": 0})
    )
    assert run_trainer(*arguments).status == 0
    folder = tmp_path / "mug-nora"
    assert names(folder / "adapter") == ["card.json", "unet"]
    assert set(open_adapter(folder).card.fingerprints) == {"unet"}
    assert set(Run.open(folder).read_log()[-1]["learning_rate"]) == {"unet"}


@pytest.mark.slow
def test_checkpointed_activations_change_no_bit(twins, tiny_base, photo_folder, tmp_path):
    arguments = tiny_arguments(
        tiny_base, photo_folder, tmp_path, changes={"gradient-checkpointing": True}
    )
    assert run_trainer(*arguments).status == 0
    expected = tensors_of(twins[0] / "mug-nora" / "adapter")
    assert tensors_of(tmp_path / "mug-nora" / "adapter") == expected


@pytest.mark.slow
def test_a_bfloat16_base_trains_float32_adapters(tiny_base, photo_folder, tmp_path):
    changes = only_unet({"precision": "bf16", "steps": 3, "sample-every": 0})
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "nora,lora", changes)
    outcome = run_trainer(*arguments)
    assert outcome.status == 0, outcome.err
    for method in METHODS:
        state = load_file(tmp_path / f"mug-{method}" / "adapter" / "unet" / WEIGHTS)
        trained = {name: t for name, t in state.items() if method == "lora" or "inner" in name}
        assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
        assert any(not torch.equal(t, t.bfloat16().float()) for t in trained.values())
