"""The audit of resuming: it finds what differs, and on this trainer it finds nothing."""

import json
import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.trainer import run_trainer, tiny_arguments

from nora_studio.cli.commands import audit_resume
from nora_studio.errors import StudioError
from nora_studio.runs.tensor_headers import read_header
from nora_studio.trainer.audit import Agreement, compare_runs

CHANGES = {
    "output-dir": None,
    "steps": 12,
    "log-every": 3,
    "checkpoint-every": 5,
    "sample-every": 2,
    "evaluate-every": 4,
    "dropout": 0.1,
    "caption-dropout": 0.2,
}


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_a_stopped_training_is_equal_to_the_bit(
    forks, tiny_base, photo_folder, tmp_path, capsys, kill
):
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "nora,lora", CHANGES)
    more = ["--folder", str(tmp_path / "audit"), "--at", "6", *(["--kill"] if kill else [])]
    assert audit_resume.run([*more, *arguments], forks) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert "Equal to the bit" in told
    rows = [line.split("  ") for line in told.splitlines() if line.startswith("mug-")]
    assert len(rows) == 2 * 4
    halves = (tmp_path / "audit" / "halves.txt").read_text()
    assert "Continuing after step" in halves  # it was in fact interrupted
    assert ("Stopped by SIGINT" in halves) != kill


@pytest.fixture
def pair(twins, tmp_path) -> tuple[Path, Path]:
    """A finished run and a copy of it, to be spoiled."""
    whole = twins[0] / "mug-nora"
    return whole, Path(shutil.copytree(whole, tmp_path / "mug-nora"))


def found(pair: tuple[Path, Path], what: str) -> Agreement:
    agreements = {one.what: one for one in compare_runs(*pair)}
    for name, one in agreements.items():
        assert (one.differing == 0) == (name != what), name
    return agreements[what]


def test_a_copy_is_equal(pair):
    for one in compare_runs(*pair):
        assert (one.differing, one.absolute, one.relative) == (0, 0, 0)
        assert one.compared > 0 and one.within(0.0)


@pytest.mark.slow
def test_another_seed_is_found(twins, tiny_base, photo_folder, tmp_path):
    flags = tiny_arguments(tiny_base, photo_folder, tmp_path, changes={"seed": 1})
    assert run_trainer(*flags).status == 0
    for one in compare_runs(twins[0] / "mug-nora", tmp_path / "mug-nora"):
        assert one.differing > 0, one.what
        assert not one.within(1e-6)


def test_one_bit_of_a_weight_is_found_and_measured(pair):
    file = pair[1] / "adapter" / "unet" / "adapter_model.safetensors"
    state = load_file(file)
    name = max(state, key=lambda key: float(state[key].abs().max()))
    largest = float(state[name].abs().max())
    state[name].view(-1)[0] += 0.01 * largest
    save_file(state, file, read_header(file).metadata)
    one = found(pair, "final adapter")
    assert one.differing == 1 and one.where == "unet/adapter_model.safetensors"
    assert one.relative == pytest.approx(0.01, rel=0.01)
    assert one.within(0.02) and not one.within(0.005)


def test_a_generator_in_another_state_is_no_small_deviation(pair):
    (newest,) = (pair[1] / "checkpoints").glob("step-000006")
    file = newest / "state.safetensors"
    state = load_file(file)
    state["draws.noise"][100] ^= 1
    save_file(state, file, read_header(file).metadata)
    assert math.isinf(found(pair, "checkpoint step-000006").absolute)


def test_a_missing_sample_and_another_loss_are_found(pair):
    (pair[1] / "samples" / "step-000003-01.png").unlink()
    assert not found(pair, "samples").within(1.0)
    shutil.copy(pair[0] / "samples" / "step-000003-01.png", pair[1] / "samples")
    log = pair[1] / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows[1] |= {"loss": rows[1]["loss"] + 1e-6, "seconds_per_step": 99.0}
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = found(pair, "losses")
    assert (one.differing, one.where) == (1, "the line of step 4")
    log.write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    assert math.isinf(found(pair, "losses").relative)


def test_an_audit_that_cannot_be_is_refused_at_once(tiny_base, photo_folder, tmp_path):
    flags = tiny_arguments(tiny_base, photo_folder, tmp_path, changes={"output-dir": None})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    for more, words in (
        (["--at", "6"], "--at: expected a step from 1 to 5"),
        (["--resume"], "--resume"),
        (["--folder", str(tmp_path / "full")], "--folder.*not empty"),
    ):
        with pytest.raises(StudioError, match=words):
            audit_resume.run([*more, *flags], None)
    with pytest.raises(StudioError, match="has no checkpoint to compare"):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "config.toml").write_text("")
        compare_runs(tmp_path / "a", tmp_path / "a")


def test_numbers_apart_are_a_share_of_their_tensors_largest():
    one = Agreement("adapter", 3, 1, absolute=0.5, relative=0.01)
    assert one.within(0.01) and not one.within(0.009)
    assert not Agreement("adapter", 0, 0).within(1.0)  # nothing compared is nothing proven
    assert not Agreement("adapter", 1, 1, math.nan, math.nan).within(1.0)
