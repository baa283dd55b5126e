"""Signals at every time of a training, a second process, and photos that are others by then."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.interruptions import LONG, SHORT, hidden, told, wait_until
from support.trainer import run_trainer, tiny_arguments

from nora_studio.runs.interruption import has_reached, signal_when
from nora_studio.runs.resuming import common_checkpoint
from nora_studio.runs.runs import Run
from nora_studio.trainer.audit import compare_runs


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path / "runs" / "mug-nora")


@pytest.mark.slow
def test_a_stop_before_anything_is_begun_leaves_nothing(trainer, tmp_path):
    process = trainer(SHORT)
    wait_until(lambda: "Loading" in told(tmp_path) if (tmp_path / "told.txt").exists() else False)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert told(tmp_path).splitlines()[-1].startswith("Stopped by SIGINT; no run was started.")
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.slow
def test_a_closed_terminal_saves_and_stops(trainer, tmp_path, run):
    master, slave = os.openpty()
    process = trainer(LONG, told=Path(os.ttyname(slave)))

    def hang_up() -> bool:
        os.set_blocking(master, False)
        with contextlib.suppress(BlockingIOError):
            os.read(master, 65536)  # as a terminal would show it
        return has_reached([run], 2)

    wait_until(hang_up)
    os.kill(process.pid, signal.SIGHUP)  # Before the end, as a shell that is told to hang up does.
    os.close(slave)
    os.close(master)  # whatever is written there now is an error
    assert process.wait() == 128 + signal.SIGHUP
    status = run.read_status()
    assert status["state"] == "stopped"
    assert max(run.checkpoints()) == status["step"] >= 2
    assert hidden(run.folder) == []


@pytest.mark.slow
def test_the_second_signal_ends_even_a_picture_at_once(trainer, tmp_path, run):
    changes = SHORT | {"checkpoint-every": 2, "sample-steps": 150}
    process = trainer(changes)
    signal_when(process, signal.SIGINT, lambda: 2 in run.checkpoints())
    time.sleep(0.3)  # it is drawing by now
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert "Stopped at once by SIGINT; step 2 is saved." in told(tmp_path).splitlines()[-1]
    assert run.read_status()["state"] == "stopped"
    assert hidden(run.folder) == []
    picture = run.sample_file("step-000002-01")
    assert not picture.exists()
    assert trainer(changes, "--resume").wait() == 0
    assert picture.exists()  # drawn before going on


@pytest.mark.slow
def test_a_stop_during_the_proof_loses_nothing(trainer, tmp_path, run):
    process = trainer(SHORT)
    assert signal_when(process, signal.SIGTERM, run.adapter.exists)
    assert process.wait() == 143
    assert run.read_status()["state"] == "stopped"
    assert trainer(SHORT, "--resume").wait() == 0
    assert run.read_status()["state"] == "finished"
    assert "Continuing after step 4 of 4" in told(tmp_path)


def test_a_second_process_is_refused_and_a_killed_one_is_not_waited_for(trainer, tmp_path, run):
    first = trainer(LONG)
    wait_until(lambda: has_reached([run], 2))
    config = (run.folder / "config.toml").read_bytes()
    for more in ((), ("--resume",)):
        other = tmp_path / "other.txt"
        assert trainer(LONG, *more, told=other).wait() == 2
        lines = [line for line in other.read_text().splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert f"mug-nora is being trained by process {first.pid}." in lines[0]
        other.unlink()
    assert first.poll() is None and run.is_alive()
    assert (run.folder / "config.toml").read_bytes() == config
    wait_until(run.checkpoints)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert run.read_status()["state"] == "running" and not run.is_alive()
    second = trainer(LONG, "--resume")
    step = max(run.checkpoints())
    assert signal_when(second, signal.SIGTERM, lambda: max(run.checkpoints()) > step)
    assert second.wait() == 143


@pytest.mark.slow
def test_two_runs_at_once_share_class_pictures_and_caches(trainer, tmp_path):
    changes = SHORT | {"prior-weight": 1, "class-pictures": 3}
    processes = [
        trainer(changes | {"name": name}, told=tmp_path / f"{name}.txt") for name in ("a", "b")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    runs = tmp_path / "runs"
    assert len(list(runs.glob("class-pictures/*/*.png"))) == 3
    assert hidden(runs) == []
    one, other = ((runs / f"{name}-nora" / "adapter").rglob("*.safetensors") for name in "ab")
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    waited = [(tmp_path / f"{name}.txt").read_text().count("Waiting for") for name in "ab"]
    assert sum(waited) <= 1


def resumed(base: Path, photos: Path, runs: Path, changes: dict, method: str = "nora"):
    return run_trainer(*tiny_arguments(base, photos, runs, method, changes), "--resume")


def test_other_photos_than_it_began_with_are_told(tiny_base, photo_folder, tmp_path):
    photos = Path(shutil.copytree(photo_folder, tmp_path / "mug"))
    flags = tiny_arguments(tiny_base, photos, tmp_path / "runs", changes=SHORT)
    assert run_trainer(*flags).status == 0
    run = Run(tmp_path / "runs" / "mug-nora")
    before = run.read_status()
    kept = (photos / "b.png").read_bytes()

    def refusal() -> str:
        outcome = resumed(tiny_base, photos, tmp_path / "runs", SHORT)
        assert outcome.status == 2 and len(outcome.errors) == 1, outcome.err
        assert run.read_status() == before  # nothing was touched
        return outcome.errors[0]

    (photos / "b.png").write_bytes((photos / "a.jpg").read_bytes())
    assert "b.png has changed" in refusal()
    (photos / "b.png").unlink()
    assert "b.png is missing" in refusal()
    (photos / "b.png").write_bytes(kept)
    shutil.copy(photos / "b.png", photos / "d.png")
    assert "d.png is new" in refusal()
    (photos / "d.png").unlink()
    (photos / "a.txt").write_text("a [V] mug on a table")
    assert "a.jpg has changed" in refusal()
    (photos / "a.txt").unlink()
    assert resumed(tiny_base, photos, tmp_path / "runs", SHORT).status == 0


@pytest.mark.slow
def test_twins_without_a_checkpoint_begin_anew_by_resume(tiny_base, photo_folder, tmp_path):
    """As a kill leaves them at their first save."""
    changes = SHORT | {"checkpoint-every": 3, "evaluate-every": 2}
    for name in ("whole", "halves"):
        flags = tiny_arguments(tiny_base, photo_folder, tmp_path / name, "nora,lora", changes)
        assert run_trainer(*flags).status == 0
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    first = Run(halves / "mug-nora")
    for name in ("adapter", "checkpoints"):
        shutil.rmtree(halves / "mug-lora" / name)
    shutil.rmtree(first.adapter)
    shutil.rmtree(first.folder / "checkpoints" / "step-000004")
    assert list(first.checkpoints()) == [3]
    assert common_checkpoint([first, Run(halves / "mug-lora")]) == 0
    outcome = resumed(tiny_base, photo_folder, halves, changes, "nora,lora")
    assert outcome.status == 0, outcome.err
    for method in ("nora", "lora"):
        for one in compare_runs(whole / f"mug-{method}", halves / f"mug-{method}"):
            assert one.compared and not one.differing, (method, one)


def test_a_twins_checkpoint_ahead_never_outlives_the_common_one(tmp_path):
    nora, lora = (Run.create(tmp_path / name, "") for name in ("nora", "lora"))
    for run, steps in ((nora, (4, 6)), (lora, (4,))):
        for step in steps:
            run.save_checkpoint(step, lambda folder: None)
    start = common_checkpoint([nora, lora])
    for run in (nora, lora):
        run.forget_after(start)  # as going on does
        run.save_checkpoint(5, lambda folder: None)  # stopped right away
        run.keep_newest(1)
    assert common_checkpoint([nora, lora]) == 5
