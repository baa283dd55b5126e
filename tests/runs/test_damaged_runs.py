"""A damaged file of a run is reported in one line, and other runs are not affected."""

import json
import shutil
from pathlib import Path

import pytest
from support.places import GOLDEN
from support.trainer import run_trainer

from nora_studio.runs.history import find_runs, summarize
from nora_studio.runs.runs import Run

DEEP = "[" * 200_000 + "]" * 200_000
LONG = "9" * 5000
DAMAGE = {
    "config.toml": (
        "",  # Without a method or a step, and so of no trainer; but no file that cannot be read.
        "[",
        "steps = 'many'",
        "steps = nan",
        "steps = -4",
        f"steps = {LONG}",
        "method = 3",
        "sample_prompts = 4",
        f"a = {DEEP}",
        b"\xff\x00\xfe",
    ),
    "status.json": (
        "",
        "{",
        "null",
        "[1]",
        DEEP,
        b"\xff\x00\xfe",
        '{"state": 3}',
        '{"state": "running", "step": "six"}',
        '{"state": "running", "step": NaN}',
        '{"state": "finished", "step": null}',
        f'{{"state": "finished", "step": {LONG}}}',
        '{"state": "running", "pid": -7, "started": 0, "host": "vm"}',
        '{"state": "running", "pid": 99999999999999999999, "started": 1, "host": "vm"}',
        '{"state": "running", "pid": "me", "started": [], "host": null}',
        '{"state": "finished", "time": 1e300}',
        '{"state": "finished", "time": "now"}',
        '{"state": "failed", "error": {"deep": [1]}}',
        '{"state": "running", "seconds_left": "soon"}',
    ),
    "photos.json": ("", "{", "[]", DEEP, '{"a.jpg": 3}', b"\xff\x00\xfe"),
    "log.jsonl": (
        "{\n",
        "null\n",
        '{"step": "two", "loss": 1.0}\n',
        '{"step": -2, "loss": 1.0}\n',
        f'{{"step": 2, "loss": {LONG}}}\n',
        '{"step": 2, "loss": "low"}\n',
        '{"step": 2, "loss": [1]}\n',
        '{"step": 2, "loss": {"unet": 1.0}}\n',
        f"{DEEP}\n",
        b"\xff\x00\xfe\n",
    ),
}
CASES = [(file, content) for file, contents in DAMAGE.items() for content in contents]


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Two runs of the golden set, one to be damaged."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("mug-nora", "mug-lora"):
        shutil.copytree(GOLDEN / "runs" / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def damage(runs: Path, file: str, content: str | bytes) -> Run:
    path = runs / "mug-nora" / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Run(runs / "mug-nora")


@pytest.mark.parametrize(("file", "content"), CASES, ids=lambda value: repr(value[:24]))
def test_a_damaged_run_is_reported_in_one_line_without_a_traceback(runs, command, file, content):
    damage(runs, file, content)
    flags = ("--output-dir", runs)
    status, out, err = command("runs", "list", *flags)
    assert (status, err) == (0, "")
    assert any("mug-lora" in line and "finished" in line for line in out.splitlines())
    (line,) = [line for line in out.splitlines() if "mug-nora" in line]
    if (file, content) == ("config.toml", ""):
        return
    assert line.startswith(f"mug-nora  damaged: {file}: ")
    assert len(line) < 300
    for words in (("show", "mug-nora"), ("diff", "mug-nora", "mug-lora"), ("show", "mug-lora")):
        status, out, err = command("runs", *words, *flags)
        refused = file == "config.toml" and "mug-nora" in words
        assert status == (2 if refused else 0), err
        assert len(err.splitlines()) == (1 if refused else 0)
        assert err.startswith("error: ") == refused
    if file == "config.toml":
        status, out, err = command("runs", "continue", "mug-nora", *flags)
        assert (status, len(err.splitlines())) == (2, 1)
        assert "config.toml is damaged: " in err
    status, out, err = command("runs", "delete", "mug-nora", *flags)
    assert (status, err) == (0, "")
    assert [run.folder.name for run in find_runs(runs)] == ["mug-lora"]


def test_a_truncated_last_line_and_a_missing_status_are_not_damage(runs):
    run = Run(runs / "mug-nora")
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')
    (run.folder / "status.json").unlink()
    assert summarize(run).damage is None
    assert summarize(run).state == "new"


def test_curves_leave_out_values_that_are_not_numbers(runs):
    rows = '{"step": 2, "loss": NaN, "first_step": {"unet": 0.3}}\n{"step": 4, "loss": 0.5}\n'
    run = damage(runs, "log.jsonl", rows)
    now = summarize(run)
    assert now.damage is None, "a diverged loss is logged so, and so is a number for each part"
    assert now.curves == {"loss": [(4, 0.5)]}


@pytest.mark.parametrize(
    "file",
    [
        "photos.json",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("status.json", "log.jsonl")),
    ],
)
def test_resuming_ignores_damage_to_files_it_does_not_need_and_names_others(
    tmp_path, monkeypatch, file
):
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")
    damage_at = Path("runs") / "stopped-nora" / file
    damage_at.write_text("{\n")
    outcome = run_trainer("--config", "runs/stopped-nora/config.toml", "--resume")
    assert "Traceback" not in outcome.err
    if file == "photos.json":
        assert outcome.status == 2
        assert len(outcome.errors) == 1
        assert "photos.json is damaged: " in outcome.errors[0]
        assert "or delete it to continue without checking" in outcome.errors[0]
        damage_at.unlink()
    else:
        assert outcome.status == 0, outcome.err
        assert Run(Path("runs") / "stopped-nora").state == "finished"
        assert summarize(Run(Path("runs") / "stopped-nora")).damage is None


def test_a_status_with_an_impossible_process_does_not_block_a_run(runs):
    run = Run(runs / "mug-nora")
    for pid in (0, -1, 2**31, 2**64, True, 1.5, "1", None):
        status = {"state": "running", "pid": pid, "started": 5.0, "host": "here"}
        (run.folder / "status.json").write_text(json.dumps(status))
        assert not run.is_alive()
        assert run.state == "interrupted"
