"""`nora-studio runs`: list, show, diff, delete, restore and continue."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.trainer import METHODS, WEIGHTS, only_unet, run_trainer, tensors_of, tiny_arguments

from nora_studio.cli.main import dispatch
from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.options_file import to_toml
from nora_studio.runs.history import TRASH, differing_settings, find_runs, summarize, trainer_of
from nora_studio.runs.runs import Run
from nora_studio.tasks.commonsense.options import CommonsenseOptions
from nora_studio.tasks.fewshot.options import FewshotOptions

SHORT = only_unet({"sample-every": 0, "log-every": 1, "schedule": "constant"})


@pytest.fixture
def runs(twins, tmp_path) -> Path:
    """A copy of the finished twins, to do things to."""
    return Path(shutil.copytree(twins[0], tmp_path / "runs"))


def told(capsys, *arguments: str) -> str:
    assert dispatch(["runs", *arguments]) == 0
    return capsys.readouterr().out


def pretend(run: Run, **status) -> None:
    (run.folder / "status.json").write_text(json.dumps({**run.read_status(), **status}))


def test_the_list_shows_the_state_of_each_run(runs, capsys):
    pretend(Run(runs / "mug-lora"), state="failed", error="no luck")
    out = told(capsys, "list", "--output-dir", str(runs))
    lines = {line.split()[0]: line for line in out.splitlines() if "mug-" in line}
    assert lines.keys() == {"mug-lora", "mug-nora"}
    assert "finished" in lines["mug-nora"]
    assert "6 of 6" in lines["mug-nora"]
    assert "failed" in lines["mug-lora"]


def test_a_run_whose_process_is_gone_is_interrupted(runs):
    run = Run(runs / "mug-nora")
    pretend(run, state="running", pid=os.getpid())
    assert summarize(run).state == "running"
    pretend(run, state="running", pid=2**22 + 1)  # beyond Linux's largest
    assert summarize(run).state == "interrupted"


def test_show_prints_settings_curves_and_files(runs, capsys):
    out = told(capsys, "show", "mug-nora", "--output-dir", str(runs))
    for words in ("finished", "checkpoints", "4, 6", "unet.outer_rank", "loss", "a photo of a [V]"):
        assert words in out, words


def test_diff_prints_differing_settings_and_the_difference_of_curves(runs, capsys, tmp_path):
    plot = tmp_path / "curves.png"
    first, second = (Run(runs / f"mug-{method}") for method in METHODS)
    config = second.folder / "config.toml"
    config.write_text(config.read_text().replace("warmup_steps = 1", "warmup_steps = 3"))
    flags = ("--output-dir", str(runs), "--plot", str(plot))
    out = told(capsys, "diff", "mug-nora", "mug-lora", *flags)
    last = [run.read_log()[-1]["loss"] for run in (first, second)]
    assert f"{last[1] - last[0]:+.4f}" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["warmup_steps", "1", "3"] in rows
    assert ["method", "nora", "lora"] in rows
    assert "batch_size" not in out  # the same in both
    with Image.open(plot) as picture:
        assert picture.size == (960, 540)


def test_settings_left_at_their_default_in_one_run_differ_too():
    assert differing_settings({"a": 1, "b": 2}, {"a": 1}) == {"b": (2, None)}


def test_a_deleted_run_can_be_brought_back_to_the_bit(runs, capsys):
    before = tensors_of(runs / "mug-nora")
    told(capsys, "delete", "mug-nora", "--output-dir", str(runs))
    assert [run.folder.name for run in find_runs(runs)] == ["mug-lora"]
    told(capsys, "restore", "mug-nora", "--output-dir", str(runs))
    assert tensors_of(runs / "mug-nora") == before
    told(capsys, "delete", "mug-nora", "mug-lora", "--output-dir", str(runs))
    told(capsys, "delete", "--empty-trash", "--output-dir", str(runs))
    assert list((runs / TRASH).iterdir()) == []


def test_two_deleted_runs_of_one_name_come_back_latest_first(runs, capsys):
    for mark in ("first", "second"):
        (runs / "mug-nora" / "mark").write_text(mark)
        told(capsys, "delete", "mug-nora", "--output-dir", str(runs))
        shutil.copytree(runs / "mug-lora", runs / "mug-nora")
    shutil.rmtree(runs / "mug-nora")
    told(capsys, "restore", "mug-nora", "--output-dir", str(runs))
    assert (runs / "mug-nora" / "mark").read_text() == "second"
    with pytest.raises(StudioError, match="exists already"):
        dispatch(["runs", "restore", "mug-nora", "--output-dir", str(runs)])


def test_a_run_in_training_is_not_deleted(runs):
    run = Run(runs / "mug-nora")
    pretend(run, state="running", pid=os.getpid())
    with pytest.raises(StudioError, match=rf"process {os.getpid()}.*Stop it first"):
        dispatch(["runs", "delete", "mug-nora", "--output-dir", str(runs)])
    assert run.folder.is_dir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lost"], "expected one of .*Did you mean 'list'"),
        (["show", "cup"], "expected a run; got 'cup'.*mug-lora, mug-nora"),
        (["restore", "cup"], "expected a deleted run; got 'cup'.*: none"),
        (["delete"], "expected the names of runs to delete"),
        (["diff", "mug-nora", "mug-lora", "--plot", "x.jpg"], "ends with .png"),
    ],
)
def test_a_mistake_is_refused_in_one_line(twins, arguments, words):
    flags = ["--output-dir", str(twins[0])] if len(arguments) > 1 or arguments != ["lost"] else []
    with pytest.raises(StudioError, match=words):
        dispatch(["runs", *arguments, *flags])


@pytest.mark.slow
def test_a_run_continued_for_more_steps_equals_one_planned_with_them(
    tiny_base, photo_folder, tmp_path
):
    def train(folder: str, steps: int, *more: str) -> Path:
        flags = tiny_arguments(
            tiny_base, photo_folder, tmp_path / folder, changes=SHORT | {"steps": steps}
        )
        outcome = run_trainer(*flags, *more)
        assert outcome.status == 0, outcome.err
        return tmp_path / folder / "mug-nora"

    straight, longer = train("straight", 5), train("longer", 3)
    assert train("longer", 5, "--resume") == longer
    assert tensors_of(longer / "adapter") == tensors_of(straight / "adapter")
    assert [row["step"] for row in Run(longer).read_log()] == [1, 2, 3, 4, 5]
    assert Run(longer).planned_steps == 5
    assert Run(longer).read_status()["state"] == "finished"
    fewer = tiny_arguments(tiny_base, photo_folder, tmp_path / "longer", changes=SHORT)
    outcome = run_trainer(*fewer, "--steps", "4", "--resume")
    assert outcome.status == 2
    assert "steps = 5; got 4" in outcome.errors[0]


def test_continuing_for_more_steps_raises_a_rate_that_had_decayed(
    tiny_base, photo_folder, tmp_path
):
    changes = SHORT | {"schedule": "linear", "warmup-steps": 0, "steps": 2}
    flags = tiny_arguments(tiny_base, photo_folder, tmp_path, changes=changes)
    assert run_trainer(*flags).status == 0
    before = (tmp_path / "mug-nora" / "adapter" / "unet" / WEIGHTS).read_bytes()
    assert run_trainer(*flags, "--steps", "4", "--resume").status == 0
    rates = [row["learning_rate"]["unet"] for row in Run(tmp_path / "mug-nora").read_log()]
    assert rates == pytest.approx([0.025, 0.0, 0.0125, 0.0])
    assert (tmp_path / "mug-nora" / "adapter" / "unet" / WEIGHTS).read_bytes() != before


@pytest.mark.slow
def test_continue_starts_the_trainer_with_the_runs_own_settings(
    tiny_base, photo_folder, tmp_path, monkeypatch
):
    flags = tiny_arguments(tiny_base, photo_folder, tmp_path, changes=SHORT | {"steps": 2})
    assert run_trainer(*flags).status == 0
    monkeypatch.setattr(sys, "argv", ["nora-studio"])
    assert (
        dispatch(["runs", "continue", "mug-nora", "--steps", "3", "--output-dir", str(tmp_path)])
        == 0
    )
    assert Run(tmp_path / "mug-nora").read_status()["steps"] == 3


@pytest.mark.parametrize(
    ("options", "script"),
    [
        (DreamboothOptions(instance_dir=Path("mug"), prompt="a [V] mug"), "dreambooth_nora"),
        (FewshotOptions(shots=4), "clip_fewshot"),
        (CommonsenseOptions(), "llama_commonsense"),
    ],
)
def test_a_run_is_continued_by_the_script_that_started_it(tmp_path, options, script):
    run = Run.create(tmp_path / "run", to_toml(options))
    assert trainer_of(run) == f"training/{script}.py"


def test_a_run_of_an_unknown_task_is_not_continued(tmp_path):
    run = Run.create(tmp_path / "run", "lr = 0.1\n")
    with pytest.raises(
        StudioError, match="expected one of the settings instance_dir, shots, cutoff"
    ):
        trainer_of(run)
