"""A run measured before it begins: with real steps on the largest pictures, and without a trace."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.tiny import SIZE
from support.trainer import (
    only_unet,
    run_trainer,
    tiny_arguments,
    tiny_options,
    tiny_settings,
    tiny_subject,
)

from nora_studio.runs.runs import Run
from nora_studio.tasks.dreambooth.batches import PhotoBatches
from nora_studio.tasks.dreambooth.preflight import LargestImageBatches
from nora_studio.tasks.dreambooth.preflight_report import Preflight, PreflightRequest, format_report
from nora_studio.trainer.peak_memory import Peak, peak_memory

CPU = torch.device("cpu")
STEPS = 16
FOUND = Preflight(
    peak=Peak("some card", 9.0, 10.0, 24.0),
    pixels=(1024, 1024),
    seconds_before=60.0,
    seconds_per_step=2.0,
    seconds_per_sample=10.0,
    seconds_per_checkpoint=3.0,
    seconds_per_measurement=5.0,
    seconds_per_proof=20.0,
    class_pictures=0,
    disk_needed_gib=1.0,
    disk_free_gib=50.0,
    fits=None,
)


@pytest.fixture(scope="module")
def measured(tiny_base, photo_folder, tmp_path_factory):
    """Folder, outcome and facts of a preflight of twins with a preserved prior."""
    folder = tmp_path_factory.mktemp("preflight")
    (folder / "class").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (SIZE, SIZE)).save(folder / "class" / name)
    for name in (".lock", "a.txt", "b.json"):  # Not pictures, so they do not count.
        (folder / "class" / name).write_text("{}")
    changes = {"preflight": True, "preflight-out": folder / "need.json", "steps": STEPS}
    changes |= {"prior-weight": 1, "class-pictures": 50, "evaluate-every": 10}
    changes |= {"class-dir": folder / "class"}
    arguments = tiny_arguments(tiny_base, photo_folder, folder / "runs", "nora,lora", changes)
    outcome = run_trainer(*arguments)
    return folder, outcome, json.loads((folder / "need.json").read_text())


def test_it_tells_and_writes_what_a_run_needs_and_leaves_nothing(measured):
    folder, outcome, facts = measured
    assert (outcome.status, outcome.errors) == (0, []), outcome.err
    assert sorted(file.name for file in folder.iterdir()) == ["class", "need.json"]
    assert facts["peak"]["device"] == "CPU"
    assert 0.2 < facts["peak"]["needed_gib"] < facts["peak"]["total_gib"]
    assert facts["out_of_memory"] is False
    for name in ("step", "sample", "checkpoint", "measurement", "proof"):
        assert 0 < facts[f"seconds_per_{name}"] < 60, name
    assert facts["disk_free_gib"] == pytest.approx(shutil.disk_usage(folder).free / 2**30, rel=0.2)
    for word in ("Preflight on CPU", "32x32", "a step", "GiB needed", "it ends at", "47 class"):
        assert word in outcome.out


def test_it_draws_no_class_picture_but_counts_them(measured):
    folder, outcome, facts = measured
    assert facts["class_pictures"] == 47
    assert "Class images" not in outcome.err
    assert not list(folder.rglob("*.png"))


@pytest.mark.slow
def test_its_figures_are_those_of_the_run(tiny_base, photo_folder, tmp_path):
    changes = only_unet({"steps": STEPS, "checkpoint-every": 4, "sample-every": 0})
    need = {"preflight": True, "preflight-out": tmp_path / "need.json"}
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes | need)
    assert run_trainer(*arguments).status == 0
    facts = json.loads((tmp_path / "need.json").read_text())
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes)
    assert run_trainer(*arguments).status == 0
    run = Run(tmp_path / "mug-lora")
    pace = sorted(row["seconds_per_step"] for row in run.read_log())[len(run.read_log()) // 2]
    assert pace / 4 < facts["seconds_per_step"] < 4 * pace  # on a machine that others use too
    files = [file for file in run.folder.rglob("*.*") if file.is_file()]
    written = sum(file.stat().st_size for file in files if ".png" not in file.name)
    assert written < facts["disk_needed_gib"] * 2**30 < 3 * written


def test_only_batches_of_the_largest_pictures_are_timed(tiny_base, photo_folder, tmp_path):
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    for number in range(4):
        Image.new("RGB", (200 + number, 60)).save(photos / f"wide-{number}.png")
    options = tiny_options(tiny_base, photos, tmp_path, resolution=64, buckets=True)
    _, batches = tiny_subject(options)
    assert isinstance(batches, PhotoBatches)
    areas = {cache.mean.shape[-2] * cache.mean.shape[-1] for cache in batches.caches}
    assert len(areas) > 1
    largest = LargestImageBatches(batches, CPU)
    for _ in range(5):
        shape = largest.next()["latents"].shape
        assert shape[0] == 2
        assert shape[2] * shape[3] == max(areas)
    assert len(largest.asked) == 5


def test_minutes_count_all_that_a_run_does(tiny_base, photo_folder, tmp_path):
    changes = {"sample_every": 30, "evaluate_every": 50, "checkpoint_every": 40}
    settings = tiny_settings(
        tiny_base, photo_folder, tmp_path, method="nora,lora", steps=100, **changes
    )
    # Three samples of each twin on the way and one at the end, two measurements, three checkpoints.
    seconds = 60 + 100 * 2 + 3 * 2 * 10 + 2 * 5 + 3 * 3 + 2 * (10 + 20)
    assert FOUND.minutes(settings) == pytest.approx(seconds / 60)
    drawn = replace(FOUND, class_pictures=4)
    more = 4 * 10 * 25 / settings.previews.steps
    assert drawn.minutes(settings) == pytest.approx((seconds + more) / 60)


def test_it_warns_where_memory_or_the_disk_will_be_full(tiny_base, photo_folder, tmp_path):
    asked = PreflightRequest(tiny_settings(tiny_base, photo_folder, tmp_path), None, None)
    assert "warning" not in " ".join(format_report(FOUND, asked))
    full = replace(FOUND, peak=Peak("some card", 22.5, 23.5, 24.0))
    assert "almost no memory" in " ".join(format_report(full, asked))
    assert "disk will be full" in " ".join(format_report(replace(FOUND, disk_free_gib=0.5), asked))


@pytest.mark.slow
def test_a_process_does_not_count_what_the_one_before_it_held():
    mine = torch.ones(2**27)  # Half a GiB.
    code = "import torch; from nora_studio.trainer.peak_memory import peak_memory; "
    code += "print(peak_memory(torch.device('cpu')).held_gib)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = peak_memory(CPU).held_gib
    assert here > 0.5 + 0.2 * mine[0].item()
    assert 0.1 < float(child.stdout) < here


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resume": True}, ("--preflight", "cannot be combined with --resume")),
        ({"preflight": None, "preflight-out": "x.json"}, ("--preflight-out", "needs --preflight")),
        ({"preflight-out": "nowhere/x.json"}, ("--preflight-out", "cannot be written")),
        ({"fit": -1}, ("--fit", "above 0")),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    tiny_base, photo_folder, tmp_path, changes, words
):
    changes = only_unet({"preflight": True} | changes)
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    for word in words:
        assert word in outcome.errors[0]
    assert not list(tmp_path.iterdir())


def test_a_taken_name_and_several_processes_are_refused_before_anything_loads(
    twins, tiny_base, photo_folder, monkeypatch
):
    arguments = tiny_arguments(tiny_base, photo_folder, twins[0], "nora", {"preflight": True})
    outcome = run_trainer(*arguments)
    assert (outcome.status, "Loading" in outcome.out) == (2, False)
    assert "is a run already" in outcome.errors[0]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "measures one process" in run_trainer(*arguments).errors[0]
