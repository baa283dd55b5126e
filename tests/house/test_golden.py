"""What an earlier version wrote still opens, resumes and draws: see tests/golden/README.md."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from support.golden_set import TASKS
from support.places import GOLDEN
from support.tiny import tiny_clip
from support.trainer import Outcome, run_trainer

from nora_studio.app.server.drafts import DRAFT, load_form
from nora_studio.app.server.image_jobs import image_job_ids, read_image_job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.uploads import photos_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.options.options_file import parse_options, to_toml
from nora_studio.runs.history import find_runs
from nora_studio.runs.runs import Run

PROMPT = "a photo of a [V] mug"
ROUNDING = 0.5
"""Mean difference of two pictures, of 255, that other versions of torch may make."""


@pytest.fixture
def golden(tmp_path, monkeypatch) -> Path:
    """A copy of the set, and the folder to stand in: its runs name their base relative to it."""
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(folder)
    return folder


def difference(one: Path, other: Path) -> float:
    """Mean absolute difference of two pictures, of 255."""
    pixels = [np.asarray(Image.open(file).convert("RGB"), np.float64) for file in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def test_every_run_is_listed_with_its_state(golden, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # Narrower, the table cuts names.
    status, out, err = command("runs", "list", "--output-dir", "runs")
    assert status == 0, err
    states = {run.folder.name: run.state for run in find_runs(golden / "runs")}
    assert states == {
        **dict.fromkeys(("mug-nora", "mug-lora", "words-nora", "checked-nora"), "finished"),
        **{f"{name}-{one}": "stopped" for name, (_, methods) in TASKS.items() for one in methods},
    }
    assert all(name in out for name in states)


@pytest.mark.parametrize("name", TASKS)
def test_a_stopped_run_of_each_task_resumes_to_its_end(golden, name):
    script, methods = TASKS[name]
    if name == "tiny":
        tiny_clip(golden / "bases" / "clip")
    config = golden / "runs" / f"{name}-{methods[0]}" / "config.toml"
    before = {one: Run(golden / "runs" / f"{name}-{one}").read_log() for one in methods}
    outcome: Outcome = run_trainer("--config", str(config), "--resume", script=script)
    assert outcome.status == 0, outcome.err
    assert "Continuing after step" in outcome.out
    for one in methods:
        run = Run(golden / "runs" / f"{name}-{one}")
        assert run.state == "finished"
        log = run.read_log()
        assert log[: len(before[one]) - 1] == before[one][:-1], "its first steps were kept"
        assert log[-1]["step"] == 14


def test_a_run_with_checksums_and_digests_is_prolonged_and_refuses_a_changed_base(golden):
    words = ("--config", "runs/checked-nora/config.toml", "--resume", "--steps")
    outcome: Outcome = run_trainer(*words, "6")
    assert outcome.status == 0, outcome.err
    assert "Continuing after step 4 of 6" in outcome.out
    weights = golden / "bases" / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(-1)[-1] += 1
    save_file(tensors, weights)
    outcome = run_trainer(*words, "8")
    assert outcome.status == 2 and len(outcome.errors) == 1, outcome.err


def test_adapters_and_files_draw_what_they_drew(golden, command):
    runs = ("mug-nora", "mug-lora", "words-nora")
    of_files = {
        "mug.seed": "mug-nora",
        "mug.kohya": "mug-nora",
        "mug-lora.diffusers": "mug-lora",
    }
    adapters = [f"runs/{run}" for run in runs]
    adapters += [f"files/{stem}.safetensors" for stem in of_files]
    words = ("--prompts", PROMPT, "--steps", "2", "--out", "again", "--model", "bases/sdxl")
    status, out, err = command("generate", "--adapters", *adapters, *words)
    assert status == 0, err
    drawn = [Path(line) for line in out.splitlines() if line.endswith(".png")]
    kept = {run: next((golden / "pictures" / run).glob("*.png")) for run in (*runs, "base")}
    for file, name in zip(drawn, (*runs, *of_files.values()), strict=True):
        assert difference(file, kept[name]) < ROUNDING, file
        assert difference(file, kept["base"]) > ROUNDING, "and the adapter is on"


def test_options_files_say_what_they_said(golden):
    options = parse_options(["--config", "options.toml"])
    assert (options.steps, options.batch_size, options.weighting) == (6, 2, "min-snr")
    assert (options.unet.rank, options.unet.outer_rank, options.text_encoder.train) == (2, 8, False)
    assert options.sample_prompts == ("a [V] mug in the snow", "a [V] mug on a beach")
    assert options.override == ("lora.unet.rank=4",)
    config = golden / "runs" / "stopped-nora" / "config.toml"
    again = to_toml(parse_options(["--config", str(config)]))
    assert set(config.read_text().splitlines()) <= set(again.splitlines())


def test_a_studio_finds_its_visitors_things_again(golden):
    home = golden / "studio"
    (visitor,) = (home / "visitors").iterdir()
    workspace = Workspace.open(home, visitor.name)
    assert [file.name for file in photos_of(workspace, DRAFT)] == ["01.jpg", "02.png", "03.jpg"]
    assert load_form(workspace) == {"name": "mug", "class_word": "mug"}
    assert workspace.run("mug-nora").state == "finished"
    jobs = Jobs(home)
    (job,) = jobs.list_jobs(workspace)
    assert (job.title, job.runs, jobs.state(job)) == ("mug", ("mug-nora",), "finished")
    (name,) = image_job_ids(workspace)
    sheet = read_image_job(workspace, name)
    assert sheet.state == "finished"
    assert all(sheet.file(workspace, place) for place in [(0, 0, 0), (1, 0, 0)])


def test_the_web_run_draws_on(golden, command, tmp_path):
    (visitor,) = (golden / "studio" / "visitors").iterdir()
    run = visitor / "runs" / "mug-nora"
    words = ("--prompts", PROMPT, "--steps", "1", "--size", "64", "--out", str(tmp_path / "out"))
    status, out, err = command("generate", "--adapters", str(run), *words)
    assert status == 0, err
    (kept,) = visitor.glob("pictures/*/nora/*.png")
    assert difference(Path(out.splitlines()[-1]), kept) < ROUNDING
    status, out, err = command("inspect", str(visitor / "adapters" / "mug.seed.safetensors"))
    assert status == 0, err
    assert "nora" in out.lower()
