"""A base in shards over two processes (FSDP2) trains, goes on, draws and proves as a whole one."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.several import start_pair, together
from support.trainer import only_unet, run_trainer, tiny_arguments, tiny_options

from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError
from nora_studio.runs.runs import Run
from nora_studio.trainer.sharding import Sharding, check_sharded

ASKED: dict[str, Any] = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
CHANGES = {"steps": 4, "evaluate-every": 2, "sample-every": 3, "gradient-checkpointing": True}


STATE = "checkpoints/step-000004/state.safetensors"


def states(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a final adapter and of the last training state."""
    files = [*sorted(run.glob("adapter/*/*.safetensors")), run / STATE]
    found = {f"{f.parent.name}.{n}": t for f in files for n, t in load_file(f).items()}
    sums = f"{Path(STATE).parent.name}.progress.loss_sums"
    return found | {sums: found[sums].mean()}  # One for each process.


def assert_close(run: Path, reference: Path) -> None:
    expected = states(reference)
    found = states(run)
    assert {name for name in expected if name not in found} == set()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=5e-4, msg=name)
    rows = [Run.open(folder).read_log() for folder in (run, reference)]
    assert [row["step"] for row in rows[0]] == [0, 2, 4]
    for row, other in zip(*rows, strict=True):
        for name in {"loss", "fixed_loss", "gradient_norm"} & other.keys():
            assert row[name] == pytest.approx(other[name], rel=1e-4), (name, row["step"])
    assert Run.open(run).read_status()["state"] == "finished"


def weigh(folder: Path):
    """Lets each process tell how many frozen numbers it holds, of how many."""

    def spoil(rank: int) -> None:
        prepare = Sharding.prepare

        def weighed(self, accelerator, step, settings):
            frozen = [p for p in step.parameters() if not p.requires_grad]
            held = [p.to_local() if hasattr(p, "to_local") else p for p in frozen]
            numbers = [sum(p.numel() for p in some) for some in (held, frozen)]
            (folder / f"weight-{rank}.json").write_text(json.dumps(numbers))
            return prepare(self, accelerator, step, settings)

        Sharding.prepare = weighed

    return spoil


@pytest.fixture(scope="module")
def sharded(tiny_base, photo_folder, tmp_path_factory) -> Path:
    """Folder with the same run by one process, "whole", and by two with a base in shards."""
    folder = tmp_path_factory.mktemp("sharding")
    commands = {
        name: tiny_arguments(tiny_base, photo_folder, folder / name, changes=CHANGES)
        for name in ("whole", "shards")
    }
    outcome = run_trainer(*commands["whole"])
    assert outcome.status == 0, outcome.err
    pair = start_pair(folder / "told", commands["shards"], weigh(folder), **ASKED)
    assert pair.wait() == [0, 0], pair.said
    assert pair.said[0].out.count("verified in a fresh pipeline") == 1
    (folder / "commands.json").write_text(json.dumps(commands))
    return folder


@pytest.mark.slow
def test_a_sharded_base_teaches_what_a_whole_one_does(sharded):
    assert_close(sharded / "shards" / "mug-nora", sharded / "whole" / "mug-nora")
    names = [
        sorted(file.name for file in (sharded / kind / "mug-nora" / "samples").iterdir())
        for kind in ("shards", "whole")
    ]
    drawn = ["base-01.png", "step-000003-01.png", "step-000004-01.png", "wall.png"]
    assert names[0] == names[1] == drawn


@pytest.mark.slow
def test_each_process_holds_its_share_of_the_base(sharded):
    weights = [json.loads((sharded / f"weight-{rank}.json").read_text()) for rank in range(2)]
    whole = weights[0][1]
    assert weights[1][1] == whole > 100_000
    assert sum(held for held, _ in weights) == whole
    assert all(held < 0.6 * whole for held, _ in weights)


@pytest.mark.slow
def test_a_sharded_run_goes_on_in_one_process_and_the_other_way_round(sharded, tmp_path):
    commands = json.loads((sharded / "commands.json").read_text())
    reference = shutil.copytree(sharded / "whole" / "mug-nora", tmp_path / "reference")
    for kind in commands:
        run = sharded / kind / "mug-nora"
        shutil.rmtree(run / "checkpoints" / "step-000004")
        shutil.rmtree(run / "adapter")
    outcome = run_trainer(*commands["shards"], "--resume")
    assert outcome.status == 0, outcome.err
    outcomes = together(tmp_path / "told", [*commands["whole"], "--resume"], **ASKED)
    assert [one.status for one in outcomes] == [0, 0], outcomes
    for kind in commands:
        assert_close(sharded / kind / "mug-nora", reference)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_a_sharded_base(tiny_base, photo_folder, tmp_path, method):
    changes = only_unet({"steps": 2, "sample-every": 0, "sample-steps": 1, "log-every": 1})
    commands = [
        tiny_arguments(tiny_base, photo_folder, tmp_path / name, method, changes)
        for name in ("whole", "shards")
    ]
    outcome = run_trainer(*commands[0])
    outcomes = together(tmp_path / "told", commands[1], **ASKED)
    # Some change too little in two steps to be seen, and say so either way.
    assert [one.status for one in outcomes] == [outcome.status] * 2, outcomes[0].err
    assert [e.partition("adapter:")[2] for e in outcomes[0].errors] == [
        e.partition("adapter:")[2] for e in outcome.errors
    ]
    runs = [Run.open(tmp_path / name / f"mug-{method}") for name in ("whole", "shards")]
    losses = [[row["loss"] for row in run.read_log()] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(losses[0]) == 2


def test_without_the_flag_there_are_no_shards(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    assert Sharding.asked() is None


def test_what_the_launcher_was_told_is_read_and_accelerate_is_not_told(monkeypatch):
    told = {"FSDP_RESHARD_AFTER_FORWARD": "false", "FSDP_TRANSFORMER_CLS_TO_WRAP": "Block, Other"}
    for name, value in (ASKED | told).items():
        monkeypatch.setenv(name, value)
    assert Sharding.asked() == Sharding(reshard_after_forward=False, blocks=("Block", "Other"))
    assert "ACCELERATE_USE_FSDP" not in os.environ


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FSDP_VERSION", "1", "Add --fsdp_version 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "--fsdp_offload_params"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "--gradient-checkpointing"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "--fsdp_transformer_layer_cls_to_wrap"),
    ],
)
def test_what_is_not_done_with_shards_is_refused(monkeypatch, name, value, words):
    for key, told in (ASKED | {name: value}).items():
        monkeypatch.setenv(key, told)
    with pytest.raises(StudioError, match=words):
        Sharding.asked()


def test_twins_and_quantised_bases_are_not_sharded(tmp_path):
    twins = tiny_options(tmp_path, tmp_path, tmp_path)
    alone = replace(twins, method="nora")
    check_sharded(None, twins)
    check_sharded(Sharding(), alone)
    with pytest.raises(StudioError, match="nora,lora: twins share one unsharded base"):
        check_sharded(Sharding(), twins)
    with pytest.raises(StudioError, match="--base-bits 4: a quantised base cannot be sharded"):
        check_sharded(Sharding(), replace(alone, base_bits=4))
