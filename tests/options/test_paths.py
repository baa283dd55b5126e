"""A run's name is one folder's, and what no file can be called is one line in every command."""

import sys
from pathlib import Path

import pytest
from support.places import TOP
from support.trainer import run_trainer

from nora_studio.app.server.workspace import check_name, safe_name
from nora_studio.cli import main as cli
from nora_studio.errors import StudioError
from nora_studio.options.paths import check_folder_name
from nora_studio.runs.entry import run_entry

TRAINERS = {
    "training/dreambooth_nora.py": ("--instance-dir", "photos/mug", "--prompt", "a [V] mug"),
    "training/clip_fewshot.py": (),
    "training/llama_commonsense.py": (),
}
SCRIPTS = {
    **TRAINERS,
    "evaluation/clip_score.py": ("--prompts", "a [V] mug", "--adapters", "runs/x"),
    "evaluation/fidelity.py": ("--adapters", "runs/x", "--references", "photos"),
}
BAD_NAMES = [
    "../z", "/z", "a/b", "a\\b", "..", ".", ".hidden", "a\nb", "a\x7f", "con", "NUL", "com1.txt",
    "LPT9", "x" * 251, "ä" * 126, "\ud800", "a\0b", " ",
]  # fmt: skip


@pytest.mark.parametrize("script", TRAINERS)
@pytest.mark.parametrize("name", ["../z", ".hidden", "a\\b", "con", "x" * 251])
def test_no_trainer_writes_a_run_outside_its_output_folder(tmp_path, script, name):
    out = tmp_path / "a" / "runs"
    words = [*TRAINERS[script], "--output-dir", str(out), "--name", name]
    outcome = run_trainer(*words, script=TOP / script)
    assert outcome.status == 2 and len(outcome.err.strip().splitlines()) == 1
    assert outcome.errors[0].startswith("error: --name: expected")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_runs_name_is_one_folders_name_everywhere(name):
    with pytest.raises(StudioError, match=r"^--name: expected") as refusal:
        check_folder_name(name, "--name", ["-lora", "-nora"])
    assert "\n" not in str(refusal.value)
    with pytest.raises(StudioError):
        check_name(name)
    assert check_name(safe_name(name))


def test_good_names_pass_to_the_last_byte():
    for name in ("mug", "größer", "a b", "a..b", "console", "x" * 250, "ä" * 125):
        check_folder_name(name, "--name", ["-lora"])


def test_a_photo_folders_name_that_is_no_runs_asks_for_one(tmp_path):
    (tmp_path / ".photos").mkdir()
    words = ("--instance-dir", str(tmp_path / ".photos"), "--prompt", "a [V] mug")
    outcome = run_trainer(*words, "--output-dir", str(tmp_path / "runs"))
    assert "--instance-dir (give the runs a --name)" in outcome.errors[0]


UNUSABLE = ["a\0b", "x" * 300, "x/" * 3000, "~nobody-here/x"]
COMMANDS = {
    "export": (["PATH"], ["x", "--out", "PATH"]),
    "inspect": (["PATH"], ["x", "--plot", "PATH"]),
    "push": (["PATH", "owner/name", "--dry-run"], ["x", "PATH/y", "--model", "PATH"]),
    "merge": (["--adapters", "PATH"], ["--adapters", "x", "--out", "PATH"]),
    "mix": (["--adapters", "x", "PATH"], ["--adapters", "x", "--out", "PATH"]),
    "extract": (["--base", "PATH", "--tuned", "x", "--out", "y"],
                ["--base", "x", "--tuned", "y", "--out", "PATH"]),
    "generate": (["--prompts", "a", "--adapters", "PATH"], ["--prompts", "a", "--out", "PATH"],
                 ["--prompts", "a", "--model", "PATH"], ["--prompts", "PATH.txt"]),
    "compare": (["--prompts", "a", "--adapters", "PATH"],),
    "runs": (["show", "PATH"], ["list", "--output-dir", "PATH"], ["compare", "x", "PATH"],
             ["delete", "PATH"], ["restore", "PATH"], ["continue", "PATH"]),
    "check-photos": (["PATH"],),
    "params": (["--model", "PATH"],),
    "ui": (["--data", "PATH"], ["--auth", "PATH"], ["--models", "x", "PATH"]),
    "demo": (["--out", "PATH"], ["--subject", "PATH"]),
    "audit-resume": (["--folder", "PATH"],),
    "draw-server": (["--clip", "a\0b"],),
}  # fmt: skip


@pytest.mark.parametrize("path", UNUSABLE, ids=lambda path: ascii(path)[:14])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_no_file_can_have_is_one_line_in_every_command(
    tmp_path, monkeypatch, capsys, command, path
):
    ours = {word for word, entry in cli.COMMANDS.items() if not isinstance(entry, cli.Script)}
    assert ours == {*COMMANDS, "methods"}  # which takes nothing
    monkeypatch.chdir(tmp_path)
    for words in COMMANDS[command]:
        words = [word.replace("PATH", path) for word in words]
        monkeypatch.setattr(sys, "argv", ["nora-studio", command, *words])
        assert cli.main() == 2, words
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and said[0].startswith("error: "), said
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", UNUSABLE, ids=lambda path: ascii(path)[:14])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_path_that_no_file_can_have_is_one_line_in_every_script(
    tmp_path, monkeypatch, script, path
):
    monkeypatch.chdir(tmp_path)
    flags = {
        "training/dreambooth_nora.py": ("--instance-dir", "--class-dir", "--output-dir", "--model"),
        "training/clip_fewshot.py": ("--data-dir", "--dataset", "--output-dir", "--config"),
        "training/llama_commonsense.py": ("--data", "--output-dir", "--config"),
        "evaluation/clip_score.py": ("--references", "--adapters", "--out"),
        "evaluation/fidelity.py": ("--references", "--adapters", "--out"),
    }
    for flag in flags[script]:
        outcome = run_trainer(*SCRIPTS[script], flag, path, script=TOP / script)
        assert outcome.status == 2 and len(outcome.errors) == 1, (flag, outcome)
        assert list(tmp_path.iterdir()) == []


def test_what_opens_such_a_name_unchecked_is_one_line_all_the_same(capsys):
    def opening(name: str):
        return lambda: len(Path(name).expanduser().read_bytes())

    for name in UNUSABLE[:2] + UNUSABLE[3:]:
        assert run_entry(opening(name)) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: expected") and said.count("\n") == 1
    for fault in (ValueError("ours"), RuntimeError("ours"), OSError(5, "ours")):
        with pytest.raises(type(fault)):
            run_entry(lambda fault=fault: (_ for _ in ()).throw(fault))
