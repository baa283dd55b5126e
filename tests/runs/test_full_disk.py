"""A full or read-only disk: one line, no half-written files, and resuming afterwards."""

import contextlib
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.interruptions import LONG, SHORT, errors, hidden, wait_until
from support.trainer import run_trainer, tiny_arguments

from nora_studio.runs.runs import Run
from nora_studio.trainer.audit import compare_runs

STEPS = {"steps": 60, "checkpoint-every": 5, "log-every": 1}


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own at a folder; skips where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_resumes_once_there_is_room(
    forks, tiny_base, photo_folder, tmp_path
):
    from nora_studio.runs.scripts import TRAIN

    changes = LONG | STEPS
    with mounted(tmp_path / "small", "size=8m") as small:
        run = Run(small / "mug-nora")
        words = tiny_arguments(tiny_base, photo_folder, small, changes=changes)
        process = forks(TRAIN, words, tmp_path / "told.txt", {})
        wait_until(run.checkpoints)
        os.kill(process.pid, signal.SIGSTOP)  # so that the disk is full at once for it
        ballast = small / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait() == 2
        (line,) = errors(tmp_path)
        for word in ("No space left on device", "MiB free", "Free some space", "--resume"):
            assert word in line
        kept = run.checkpoints()
        assert kept and hidden(run.folder) == []
        assert not run.is_alive()
        ballast.unlink()
        assert forks(TRAIN, [*words, "--resume"], tmp_path / "again.txt", {}).wait() == 0
        outcome = run_trainer(
            *tiny_arguments(tiny_base, photo_folder, tmp_path / "whole", changes=changes)
        )
        assert outcome.status == 0
        for one in compare_runs(tmp_path / "whole" / "mug-nora", run.folder):
            assert one.compared and not one.differing, one


class Told:
    """What a process says through a pipe, which no limit on files holds for."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "pipe"
        os.mkfifo(self.file)
        self.text = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        self.text = self.file.read_text()

    @property
    def line(self) -> str:
        """The only error told."""
        self.reader.join(timeout=60)
        assert "Traceback" not in self.text
        (line,) = [line for line in self.text.splitlines() if line.startswith("error: ")]
        return line


@pytest.mark.parametrize("what", ["line", pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_a_file_too_large_for_the_disk_fails_the_run_and_keeps_what_was_saved(
    trainer,
    tmp_path,
    what,
):
    changes = LONG | {"checkpoint-every": 5 if what == "checkpoint" else 2000}
    run = Run(tmp_path / "runs" / "mug-nora")
    told = Told(tmp_path)
    process = trainer(changes, told=told.file)
    wait_until(run.checkpoints if what == "checkpoint" else run.read_log)
    before = list(run.checkpoints())
    # Log lines and the status are smaller than the one, checkpoints larger.
    limit = 60_000 if what == "checkpoint" else 3_000
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    assert process.wait() == 2
    line = told.line
    for word in ("File too large", f"a {what}", "MiB free", "--resume"):
        assert word in line
    status = run.read_status()
    assert status["state"] == "failed" and "File too large" in status["error"]
    assert set(before) <= set(run.checkpoints()) or what == "checkpoint"
    assert bool(run.checkpoints()) == (what == "checkpoint")
    assert hidden(run.folder) == []


def limited(start: Callable, folder: Path, limit: int, changes: dict) -> str:
    """The line of a training that may never write a file larger than this."""
    told = Told(folder)
    process = start(changes, told=told.file)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    assert process.wait() == 2
    return told.line


def test_output_that_cannot_be_written_fails_the_run(trainer, tmp_path):
    run = Run(tmp_path / "runs" / "mug-nora")
    process = trainer(LONG | {"checkpoint-every": 2000, "log-every": 2000})
    wait_until(lambda: "step/s" in (tmp_path / "told.txt").read_text() if run.exists else False)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2_000, 2_000))
    assert process.wait() not in (0, 1)
    assert "File too large" in run.read_status()["error"]


def test_class_images_that_cannot_be_written_are_reported(trainer, tmp_path):
    line = limited(trainer, tmp_path, 1_000, SHORT | {"prior-weight": 1, "class-pictures": 2})
    assert "class-pictures" in line and "an image" in line and "start the same command" in line
    assert not (tmp_path / "runs" / "mug-nora").exists()  # the name is free for the next try


def test_a_run_on_a_read_only_disk_is_refused_before_a_model_loads(
    tiny_base, photo_folder, tmp_path
):
    with mounted(tmp_path / "fixed", "ro") as fixed:
        outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, fixed, changes=SHORT))
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert "Read-only file system" in outcome.errors[0]
    assert "Make it writable" in outcome.errors[0]
    assert "Loading" not in outcome.out
