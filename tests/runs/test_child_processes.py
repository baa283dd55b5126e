"""Child processes, leftovers and run folders after a command is killed or its folder removed."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from support.file_events import at_file_event
from support.modules import modules, scripts
from support.places import GOLDEN, TOP
from support.trainer import run_trainer

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import replacing
from nora_studio.runs.process_id import host_name, process_start_time
from nora_studio.runs.runs import Run
from nora_studio.runs.tensor_files import write_tensors

GONE = 2**31 - 2
"""No process has that number."""


def wait_until(is_time, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not is_time():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such thing")
def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    # The module alone: importing the package takes seconds.
    module = str(TOP / "nora_studio" / "runs" / "child_processes.py")
    parent = textwrap.dedent(
        f"""
        import importlib.util, subprocess
        spec = importlib.util.spec_from_file_location("child_processes", {module!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        child = subprocess.Popen(["sleep", "60"], preexec_fn=module.stop_with_parent())
        print(child.pid, flush=True)
        child.wait()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", parent], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert process_start_time(child) is not None
    process.kill()
    process.wait()
    wait_until(lambda: process_start_time(child) is None, 10)


def test_every_command_starts_its_children_with_stop_with_parent():
    for file in [*modules(), *scripts()]:
        if "app" in file.parts or file.name == "screenshots.py":
            continue  # The studio's jobs are to live on.
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = getattr(node.func.value, "id", "")
                if owner == "subprocess" and node.func.attr in ("Popen", "run", "call"):
                    given = {keyword.arg for keyword in node.keywords}
                    assert "preexec_fn" in given, f"{file.name}:{node.lineno}"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such thing")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killing_the_command_ends_its_trainer_which_saves(tmp_path, number):
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    words = ["--model", "bases/sdxl", "--instance-dir", "photos/mug", "--prompt", "a [V] mug"]
    words += ["--trigger", "sks", "--steps", "5000", "--method", "lora", "--log-every", "1"]
    words += ["--sample-every", "0", "--sample-steps", "1", "--name", "long"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nora_studio.cli", "train", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = Run(folder / "runs" / "long-lora")
    wait_until(lambda: process.poll() is not None or run.read_status().get("step", 0) >= 2)
    trainer = run.read_status()["pid"]
    assert trainer != process.pid
    process.send_signal(number)
    assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
    wait_until(lambda: process_start_time(trainer) is None, 60)
    assert run.state == "stopped"
    assert run.checkpoints()


def left_behind(place: Path, pid: int, host: str, kind: str = "new") -> Path:
    path = place.with_name(f".{place.name}.{pid}@{host}.{kind}")
    if place.suffix:
        path.write_text("half")
    else:
        path.mkdir(parents=True)
        (path / "half").write_text("half")
    return path


def test_the_next_command_removes_leftovers_of_dead_commands_only(tmp_path):
    dead = [left_behind(tmp_path / name, GONE, host_name()) for name in ("merged", "a.safetensors")]
    alive = left_behind(tmp_path / "other", os.getpid(), host_name())
    elsewhere = left_behind(tmp_path / "other.safetensors", GONE, "another-machine")
    unsigned = tmp_path / ".profile.123.old"
    unsigned.write_text("somebody else's")
    write_tensors(tmp_path / "b.safetensors", {"x": torch.zeros(1)})
    assert not any(path.exists() for path in dead)
    dead = left_behind(tmp_path / "merged", GONE, host_name())
    with replacing(tmp_path / "new") as fresh:
        (fresh / "x").write_text("whole")
    assert not dead.exists()
    assert alive.exists() and elsewhere.exists() and unsigned.exists()
    assert (tmp_path / "new" / "x").read_text() == "whole"


def test_a_swap_that_was_killed_in_the_middle_is_finished_by_the_next_command(tmp_path):
    left_behind(tmp_path / "merged", GONE, host_name(), "old")
    with replacing(tmp_path / "other") as fresh:
        (fresh / "x").write_text("x")
    assert (tmp_path / "merged" / "half").read_text() == "half", "what was there is back"


IN_USE = " was moved or removed while it was in use"
NOT_WRITTEN = "cannot be written ({}): its folder was moved or removed. Put it back"
REMOVALS = {
    "log": ("runs/stopped-nora/log.jsonl", IN_USE),
    # Its twin's line comes between its own and its checkpoint.
    "checkpoint": ("runs/stopped-lora/log.jsonl", IN_USE),
    "sample": (
        "runs/stopped-nora/samples/.*png.*",
        f"/samples/step-000014-01.png {NOT_WRITTEN.format('an image')}",
    ),
    "end": (
        "runs/stopped-nora/.*status.*",
        "/status.json " + NOT_WRITTEN.format("the run's status"),
    ),
}
"""The folder is removed just before a file is opened for writing; what is then said of it."""


def test_a_run_that_was_removed_takes_neither_a_checkpoint_nor_an_adapter(tmp_path):
    run = Run(shutil.copytree(GOLDEN / "runs" / "stopped-nora", tmp_path / "stopped-nora"))
    shutil.rmtree(run.folder)
    with pytest.raises(StudioError, match="was moved or removed while it was in use"):
        run.save_checkpoint(3, lambda folder: None)
    with pytest.raises(StudioError, match="moved or removed while"), run.saving_adapter():
        pass
    assert not run.folder.exists()


@pytest.mark.parametrize(
    "when",
    [
        "checkpoint",
        "sample",
        *(pytest.param(when, marks=pytest.mark.slow) for when in ("log", "end")),
    ],
)
def test_a_run_whose_folder_is_removed_ends_with_one_line(tmp_path, monkeypatch, when):
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(folder)
    run = Run(folder / "runs" / "stopped-nora")

    def is_time() -> bool:
        return when != "end" or run.adapter.is_dir()

    file, words = REMOVALS[when]
    remove = partial(shutil.rmtree, run.folder)
    with at_file_event("open", file, remove, is_time) as happened:
        outcome = run_trainer("--config", "runs/stopped-nora/config.toml", "--resume")
    assert happened
    assert outcome.status == 2
    assert len(outcome.errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert f"stopped-nora{words}" in outcome.errors[0]
    assert not (run.folder / "checkpoints").exists(), "nothing of it comes back"


def test_no_module_uses_names_that_windows_lacks():
    lacking = {
        "SIGHUP",
        "SIGKILL",
        "SIGUSR1",
        "SIGUSR2",
        "SIGALRM",
        "SIGCHLD",
        "alarm",
        "setitimer",
    }
    lacking |= {"fork", "killpg", "getpgid", "setsid", "getuid", "geteuid", "uname", "mkfifo"}
    for file in [*modules(), *scripts()]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                odd = node.value.id in ("signal", "os") and node.attr in lacking
                assert not odd, f"{file.name}:{node.lineno}: {node.value.id}.{node.attr}"
        for node in tree.body:
            names = [alias.name for alias in getattr(node, "names", [])]
            where = getattr(node, "module", None)
            for name in [where] if where else names:
                assert name not in ("fcntl", "resource", "pwd", "grp", "termios"), file.name


@pytest.mark.slow  # A process that imports the web app.
def test_an_account_is_not_asked_for_without_a_terminal(tmp_path):
    code = "import sys; from nora_studio.cli.main import main; sys.exit(main())"
    words = ["ui", "--auth", str(tmp_path / "accounts.txt"), "--add-account", "ada"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        input="secret\nsecret\n",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        start_new_session=True,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: --add-account needs a terminal to ask for the password")
    assert not (tmp_path / "accounts.txt").exists()
