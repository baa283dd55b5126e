"""A run's folder: creating, logging, checkpoints, and the step from which twins resume."""

import errno
import json
import threading
from pathlib import Path

import pytest
import torch

from nora_studio.errors import StudioError
from nora_studio.runs.resuming import common_checkpoint
from nora_studio.runs.runs import Run
from nora_studio.trainer.checkpoints import CheckpointState, read_state, write_state


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create(tmp_path / "mug-nora", "steps = 5\n")


def mark(folder: Path) -> None:
    (folder / "weights").write_text(folder.name)


def checkpoints(run: Run, *steps: int) -> None:
    for step in steps:
        run.save_checkpoint(step, mark)


def test_a_new_run_holds_its_options_and_does_not_replace_another(run):
    assert (run.folder / "config.toml").read_text() == "steps = 5\n"
    with pytest.raises(StudioError, match=r"is a run already.*--resume.*--name"):
        Run.create(run.folder, "steps = 6\n")
    assert (run.folder / "config.toml").read_text() == "steps = 5\n"
    assert Run.open(run.folder) == run


def test_a_folder_that_is_no_run_is_neither_opened_nor_overwritten(tmp_path):
    with pytest.raises(StudioError, match="is not a run"):
        Run.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudioError, match="cannot be written"):
        Run.create(tmp_path / "file" / "run", "")


def test_an_option_that_differs_is_named_with_both_values(run):
    run.check_config("steps = 5\n")
    run.check_config("steps = 5\nresume = true\n")  # asked for by whoever resumes
    run.check_config("steps = 6\n")  # a longer plan
    for text, words in (
        ("steps = 4\n", ("steps = 5", "4", str(run.folder / "config.toml"))),
        ("", ("steps = 5", "None")),
        ("steps = 5\nseed = 1\n", ("seed = None", "1")),
        ("steps = 5\n[unet]\nrank = 3\n", ("unet.rank = None", "3")),
    ):
        with pytest.raises(StudioError) as refusal:
            run.check_config(text)
        assert "\n" not in str(refusal.value)
        assert all(word in str(refusal.value) for word in words)


def test_a_run_older_than_an_option_resumes_with_its_default(run):
    defaults = "ema = 0.0\n[unet]\nrank = 8\nnew = 1\n"
    run.check_config("steps = 5\nema = 0.0\n[unet]\nrank = 8\nnew = 1\n", defaults)
    with pytest.raises(StudioError, match=r"unet.new = 1; got 2"):
        run.check_config("steps = 5\nema = 0.0\n[unet]\nnew = 2\n", defaults)
    with pytest.raises(StudioError, match=r"ema = 0.0; got 0.5"):
        run.check_config("steps = 5\nema = 0.5\n", defaults)


def test_a_reader_sees_a_whole_status_at_every_moment(run):
    seen, stop = [], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(run.read_status())

    watcher = threading.Thread(target=watch)
    run.set_status("running", 0, 300)
    watcher.start()
    for step in range(300):
        run.set_status("running", step, 300, note="x" * (step * 40))  # short and long by turns
    stop.set()
    watcher.join()
    steps = [status["step"] for status in seen]
    assert steps == sorted(steps)
    assert len(set(steps)) > 1
    assert all(len(status["note"]) == status["step"] * 40 for status in seen if "note" in status)


def test_status_is_empty_before_the_first_and_then_the_last(run):
    assert Run(run.folder / "none").read_status() == {}
    assert (run.read_status()["state"], run.read_status()["steps"]) == ("running", 5)
    run.set_status("running", 1, 5, seconds_left=3.0)
    run.set_status("finished", 5, 5)
    status = run.read_status()
    assert (status["state"], status["step"], status["steps"]) == ("finished", 5, 5)
    assert "seconds_left" not in status


def test_log_lines_after_a_step_are_removed(run):
    assert run.read_log() == []
    for step in (2, 4, 6):
        run.log(step, loss=step / 10)
    run.forget_after(4)
    assert run.read_log() == [{"step": 2, "loss": 0.2}, {"step": 4, "loss": 0.4}]
    run.log(6, loss=0.7)
    assert [row["step"] for row in run.read_log()] == [2, 4, 6]


def test_a_truncated_log_line_is_left_out(run):
    run.log(2, loss=0.2)
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in run.read_log()] == [2]
    run.forget_after(2)  # as resuming does, before it writes on
    run.log(4, loss=0.4)
    assert [row["step"] for row in run.read_log()] == [2, 4]


def test_the_newest_checkpoints_are_kept(run):
    checkpoints(run, 2, 4, 10, 6, 1_000_000)
    assert list(run.checkpoints()) == [2, 4, 6, 10, 1_000_000]  # by step, not by name
    run.keep_newest(2)
    assert list(run.checkpoints()) == [10, 1_000_000]
    run.keep_newest(5)
    assert len(run.checkpoints()) == 2


def test_a_checkpoint_that_fails_leaves_nothing_and_loses_nothing(run):
    checkpoints(run, 2)

    def fail(folder: Path) -> None:
        mark(folder)
        raise OSError(errno.ENOSPC, "disk full")

    for step in (2, 4):
        with pytest.raises(StudioError, match=r"a checkpoint.*disk full.*free.*--resume"):
            run.save_checkpoint(step, fail)
    assert [f.name for f in (run.folder / "checkpoints").iterdir()] == ["step-000002"]
    assert (run.checkpoints()[2] / "weights").is_file()


def test_folders_that_are_no_complete_checkpoint_are_ignored(run):
    checkpoints(run, 2)
    for name in (".step-000004.123.new", "step-5", "step-000006.bak", "notes"):
        (run.folder / "checkpoints" / name).mkdir()
    assert list(run.checkpoints()) == [2]


def test_twins_resume_from_the_newest_step_that_both_have(tmp_path):
    nora, lora = (Run.create(tmp_path / name, "") for name in ("nora", "lora"))
    checkpoints(nora, 2, 4, 6)
    checkpoints(lora, 2, 4)
    assert common_checkpoint([nora, lora]) == 4
    assert common_checkpoint([nora]) == 6
    nora.keep_newest(1)
    with pytest.raises(StudioError) as refusal:
        common_checkpoint([nora, lora])
    assert "\n" not in str(refusal.value)
    assert str(nora.folder) in str(refusal.value)


def training_state() -> CheckpointState:
    parameter = torch.nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 0.1, "name": "unet"}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(3):
        parameter.grad = torch.full_like(parameter, 0.3)
        optimizer.step()
        schedule.step()
    batches = {"queue": torch.tensor([3, 1]), "order": torch.Generator().get_state()}
    scaler = {"scale": 2.0, "_growth_tracker": 4}
    return CheckpointState(3, optimizer.state_dict(), schedule.state_dict(), batches, scaler)


def test_training_state_reads_back_to_the_bit_with_torchs_own_generator(tmp_path):
    state = training_state()
    torch.manual_seed(5)
    write_state(tmp_path, state)
    expected = torch.rand(3)
    torch.manual_seed(6)
    again = read_state(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert (again.step, again.scaler) == (state.step, state.scaler)
    assert again.batches.keys() == state.batches.keys()
    assert all(torch.equal(again.batches[name], state.batches[name]) for name in state.batches)
    for name, value in state.optimizer["state"][0].items():
        assert torch.equal(again.optimizer["state"][0][name], value)
    parameter = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 9.0, "name": "unet"}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    optimizer.load_state_dict(again.optimizer)
    schedule.load_state_dict(again.schedule)
    assert optimizer.param_groups[0]["lr"] == 0.1 / 4
    assert schedule.last_epoch == 3


def test_a_damaged_training_state_says_what_to_do(tmp_path):
    checkpoint = tmp_path / "step-000004"
    checkpoint.mkdir()
    write_state(checkpoint, training_state())
    file = checkpoint / "state.safetensors"
    content = file.read_bytes()
    for damaged in (content[:-10], b"", json.dumps({}).encode()):
        file.write_bytes(damaged)
        with pytest.raises(StudioError, match="It is the run's only checkpoint"):
            read_state(checkpoint)
    (tmp_path / "step-000002").mkdir()
    with pytest.raises(
        StudioError, match=r"Delete .*step-000004, and continue the run from another checkpoint"
    ):
        read_state(checkpoint)
    file.unlink()
    with pytest.raises(StudioError, match=r"does not exist|cannot be read"):
        read_state(checkpoint)
