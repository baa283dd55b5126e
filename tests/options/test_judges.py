"""Pictures are scored by the judge that is named, or by the embedded one on the embedded base."""

import json
import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.places import TOP
from support.tiny import tiny_sdxl
from support.trainer import tiny_arguments

from nora_studio.app.pages.adapter_cards import library_view
from nora_studio.app.pages.comparison_view import image_job_view
from nora_studio.app.pages.start_requirements import requirements_view
from nora_studio.app.server.image_jobs import (
    JOB_FILE,
    new_image_job,
    read_image_job,
    write_image_job,
)
from nora_studio.app.server.library import library
from nora_studio.app.server.resource_estimates import ResourceEstimateStore
from nora_studio.app.server.training import shown_command
from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded
from nora_studio.options.judges import is_embedded_base, judge_for, require_judge, why_unscored
from nora_studio.runs.runs import Run
from nora_studio.scoring.sweep_table import page as sweep_page
from nora_studio.sdxl.models import load_sdxl

EVALUATION = TOP / "evaluation"
CLIP = "ViT-B-32:openai"


def copy_of_embedded(folder: Path) -> Path:
    """Its files in another folder, as links: 35 MiB less to write."""
    return Path(shutil.copytree(embedded("mini-sdxl"), folder, copy_function=os.symlink))


def test_the_embedded_base_is_known_by_name_by_path_and_by_content(tmp_path, monkeypatch):
    copy = copy_of_embedded(tmp_path / "copy")
    link = tmp_path / "link"
    link.symlink_to(embedded("mini-sdxl"))
    stored = tmp_path / "stored"
    load_sdxl(dtype=torch.bfloat16).save_pretrained(stored)  # In other files, of another type.
    monkeypatch.chdir(embedded("mini-sdxl").parent)
    for base in ("embedded", "mini-sdxl", copy, link, stored):
        assert judge_for(str(base)) == "embedded", base


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_one_weight_that_differs_makes_another_base(tmp_path, part):
    copy = copy_of_embedded(tmp_path / "copy")
    file = sorted((copy / part).glob("*.safetensors"))[-1]
    tensors = load_file(file)
    name = max(tensors, key=lambda name: tensors[name].ndim)
    file.unlink()  # A link to the shipped file.
    save_file(tensors | {name: tensors[name] * 1.05}, file, {"format": "pt"})
    assert not is_embedded_base(str(copy))


def test_other_bases_need_a_judge_by_name(tiny_base, tmp_path):
    other = tiny_sdxl(tmp_path / "other", seed=1)
    broken = copy_of_embedded(tmp_path / "broken")
    (index,) = (broken / "unet").glob("*.index.json")
    index.unlink()
    index.write_text("[]")
    for base in (str(tiny_base), str(other), str(broken), "owner/sdxl", str(tmp_path), "nowhere"):
        assert judge_for(base) is None
        assert judge_for(base, CLIP) == require_judge(base, CLIP) == CLIP
        with pytest.raises(StudioError, match="--clip") as refused:
            require_judge(base)
        assert str(refused.value) == f"these images cannot be scored: {why_unscored(base)}"
        assert "\n" not in str(refused.value) and base in str(refused.value)


@pytest.mark.parametrize("script", ["clip_score.py", "fidelity.py"])
def test_scores_of_another_base_without_a_judge_are_refused_before_a_model_loads(
    script, twins, photo_folder, tmp_path, monkeypatch, capsys
):
    words = ["--adapters", twins[0] / "mug-nora", "--prompts", "a [V] mug", "a [V] mug at sea"]
    words += ["--references", photo_folder, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EVALUATION / script), run_name="__main__")
    line = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert (
        line.startswith("error: these images cannot be scored: ")
        and "--clip" in line
        and "\n" not in line
    )
    assert not (tmp_path / "out").exists()


def test_a_training_on_another_base_says_once_why_its_samples_have_no_scores(twins, tiny_base):
    runs, outcome = twins
    assert outcome.out.count(f"Samples are not scored: {why_unscored(str(tiny_base))}") == 1
    for run in (Run(runs / "mug-nora"), Run(runs / "mug-lora")):
        assert not [row for row in run.read_log() if "sample_clip_t" in row]
        assert run.sample_file("step-000006-01").is_file()


def test_before_a_start_the_page_says_that_samples_will_not_be_scored(studio, workspace, tiny_base):
    photos, runs = Path("photos/mug"), Path("runs")
    plain = tiny_arguments(tiny_base, photos, runs, changes={"output-dir": None, "name": "other"})

    def needs(*more: str) -> str:
        estimates = ResourceEstimateStore(studio.auth.home)
        return requirements_view(studio, estimates, workspace, shown_command([*plain, *more]))

    assert "Its samples are not scored" in needs() and "--clip" in needs()
    for more in (("--clip", CLIP), ("--no-score-samples",)):
        assert "not measured yet" in needs(*more) and "not scored" not in needs(*more)


def test_an_adapter_s_scores_stand_beside_their_judge(workspace):
    nora, lora = (Run(workspace.runs / f"mug-{method}") for method in ("nora", "lora"))
    nora.log(6, sample_clip_i=0.8, sample_clip_t=0.3, sample_judge=CLIP)
    lora.log(6, sample_clip_i=0.7, sample_clip_t=0.2)  # Of an earlier version.
    config = lora.folder / "config.toml"
    assert {entry.title: entry.judge for entry in library(workspace)} == {
        "mug-nora": CLIP,
        "mug-lora": "embedded",
    }
    config.write_text(f'clip = "hf-hub:owner/clip"\n{config.read_text()}')
    page = library_view(library(workspace), {}, workspace)
    assert f"by CLIP {CLIP}" in page and "by CLIP hf-hub:owner/clip" in page


def test_sweeps_name_their_judge_and_those_of_two_judges_are_not_set_side_by_side():
    record = json.loads((embedded("sweep") / "lora.json").read_text())
    other = {"old": record, "new": record | {"clip": CLIP}}
    with pytest.raises(StudioError, match=f"sweeps with one judge.*old by embedded, new by {CLIP}"):
        sweep_page(other)
    assert "Judged by CLIP embedded." in sweep_page({"new": record | {"clip": "embedded"}})


def test_a_drawing_names_who_scored_it_one_of_an_earlier_version_too(workspace):
    asked = {"columns": [{"label": "base"}], "prompts": ["a mug"], "score": True, "clip": CLIP}
    scores = {"CLIP-T": {"base": [0.3]}}
    job = replace(new_image_job(workspace, asked), state="finished", scores=scores, judge=CLIP)
    write_image_job(workspace, job)
    assert read_image_job(workspace, job.id) == job
    assert f"Scores by CLIP {CLIP}." in image_job_view(job, workspace)
    file = job.folder(workspace) / JOB_FILE
    values = json.loads(file.read_text())
    old = {name: value for name, value in values.items() if name not in ("judge", "unscored")}
    file.write_text(json.dumps(old))
    assert read_image_job(workspace, job.id).judge == "embedded"
