"""A comparison generates each image once, notices changes, and the script scores all of it."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.places import TOP
from support.tiny import SIZE, tiny_adapter, tiny_clip

from nora_studio.errors import StudioError
from nora_studio.scoring.compare import (
    GenerationSettings,
    adapter_columns,
    find_differences,
    generate_missing,
    mean_by_prompt,
    run_name,
)
from nora_studio.sdxl.models import load_sdxl
from nora_studio.sdxl.recipes import read_recipe

SCRIPT = TOP / "evaluation" / "clip_score.py"
DRAWING = GenerationSettings(
    model="tiny",
    prompts=("a photo of a [V] mug", "a [V] mug on the beach"),
    seeds=(0, 1),
    steps=1,
    guidance=2.0,
    size=SIZE,
)


@pytest.fixture(scope="module")
def pipe(tiny_base):
    return load_sdxl(str(tiny_base))


@pytest.fixture(scope="module")
def runs(pipe, tmp_path_factory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("runs")
    return {
        method: tiny_adapter(top / f"mug-{method}" / "adapter", pipe, method).parent
        for method in ("lora", "nora")
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    levels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    for number, picture in enumerate(levels):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def drawn_again(pipe, columns, drawing, folder) -> set[str]:
    """Names of the entrants' files that a second call wrote anew."""
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    generate_missing(pipe, columns, drawing, folder)
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}
    return {f"{f.parent.name}/{f.name}" for f, time in after.items() if before.get(f) != time}


def test_columns_are_named_by_method_or_by_run_if_methods_repeat(runs, tmp_path):
    named = adapter_columns([runs["nora"], runs["lora"]])
    assert [column.label for column in named] == ["base", "NoRA", "LoRA"]
    shutil.copytree(runs["nora"], tmp_path / "other-nora")
    twins = adapter_columns([runs["nora"], tmp_path / "other-nora"], with_base=False)
    assert [column.label for column in twins] == ["mug-nora", "other-nora"]
    with pytest.raises(StudioError, match="each adapter once"):
        adapter_columns([runs["nora"], runs["nora"] / "adapter"])


def test_checkpoints_are_named_by_run_and_step():
    assert run_name(Path("runs/mug-nora/adapter")) == "mug-nora"
    assert run_name(Path("runs/mug-nora/checkpoints/step-000200")) == "mug-nora step-000200"
    assert run_name(Path("runs/mug-nora/checkpoints/step-000200/adapter")) == (
        "mug-nora step-000200"
    )


def test_each_column_gets_its_own_images_with_their_recipes(pipe, runs, tmp_path):
    columns = adapter_columns(list(runs.values()))
    seen = []
    pictures = generate_missing(pipe, columns, DRAWING, tmp_path, lambda *now: seen.append(now))
    assert list(pictures) == ["base", "LoRA", "NoRA"]
    assert seen == [(label, n, 4) for label in pictures for n in range(1, 5)]
    pair = ("a photo of a [V] mug", 1)
    recipes = {label: read_recipe(files[pair]) for label, files in pictures.items()}
    assert recipes["base"].trigger is None
    assert recipes["NoRA"].trigger == "sks"
    assert recipes["NoRA"].adapter == "mug-nora"
    assert len({files[pair].read_bytes() for files in pictures.values()}) == 3


def test_only_missing_or_changed_images_are_generated_again(pipe, runs, tmp_path):
    columns = adapter_columns(list(runs.values()))
    pictures = generate_missing(pipe, columns, DRAWING, tmp_path)
    assert drawn_again(pipe, columns, DRAWING, tmp_path) == set()
    lost, damaged = pictures["base"][DRAWING.pairs[0]], pictures["NoRA"][DRAWING.pairs[3]]
    whole = lost.read_bytes()
    lost.unlink()
    damaged.write_bytes(b"not a picture")
    again = {f"{file.parent.name}/{file.name}" for file in (lost, damaged)}
    assert drawn_again(pipe, columns, DRAWING, tmp_path) == again
    assert lost.read_bytes() == whole
    stronger = replace(DRAWING, strength=0.5)
    changed = drawn_again(pipe, columns, stronger, tmp_path)
    assert {name.split("/")[0] for name in changed} == {"lora", "nora"}
    assert len(drawn_again(pipe, columns, replace(stronger, steps=2), tmp_path)) == 12


def test_strength_zero_is_the_base_to_the_bit_and_signs_get_different_folders(pipe, runs, tmp_path):
    columns = adapter_columns([runs["nora"]], strengths=[0.0, -1.0, 1.0])
    pictures = generate_missing(pipe, columns, DRAWING, tmp_path)
    folders = {next(iter(files.values())).parent.name for files in pictures.values()}
    assert folders == {"base", "nora-0", "nora-minus-1", "nora-1"}
    off = generate_missing(
        pipe, adapter_columns([runs["nora"]]), replace(DRAWING, strength=0.0), tmp_path / "off"
    )
    for pair, file in pictures["base"].items():
        base = np.asarray(Image.open(file))
        assert np.array_equal(base, np.asarray(Image.open(pictures["NoRA × 0"][pair])))
        assert np.array_equal(base, np.asarray(Image.open(off["NoRA"][pair])))
        assert not np.array_equal(base, np.asarray(Image.open(pictures["NoRA × 1"][pair])))
    assert read_recipe(pictures["NoRA × 0"][DRAWING.pairs[0]]).trigger is None


def test_images_of_a_retrained_adapter_are_generated_again(pipe, runs, tmp_path):
    run = tmp_path / "mug"
    shutil.copytree(runs["nora"], run)
    generate_missing(pipe, adapter_columns([run]), DRAWING, tmp_path / "out")
    shutil.rmtree(run)
    tiny_adapter(run / "adapter", pipe, "nora", strength=0.5)
    changed = drawn_again(pipe, adapter_columns([run]), DRAWING, tmp_path / "out")
    assert {name.split("/")[0] for name in changed} == {"nora"}
    assert len(changed) == 4


def test_prompts_are_the_units_and_every_pair_is_compared():
    drawing = replace(DRAWING, prompts=tuple(f"prompt {n}" for n in range(6)))
    better = [0.5 + 0.01 * n for n in range(12)]
    worse = [value - 0.2 + 0.003 * (n % 5) for n, value in enumerate(better)]
    scores = {"CLIP-T": {"base": worse, "LoRA": better, "NoRA": better}}
    found = {(f.first, f.second): f for f in find_differences(scores, drawing)}
    assert list(found) == [("NoRA", "LoRA"), ("LoRA", "base"), ("NoRA", "base")]
    assert found["NoRA", "LoRA"].verdict == "no difference shown"
    assert found["NoRA", "base"].verdict == "NoRA higher than base"
    assert {finding.units for finding in found.values()} == {6}
    assert mean_by_prompt(better, drawing)["prompt 1"] == pytest.approx(0.525)


def test_one_prompt_is_compared_over_seeds_and_one_image_not_at_all():
    scores = {"CLIP-T": {"base": [0.1] * 8, "NoRA": [0.3] * 8}}
    one = replace(DRAWING, prompts=("a [V] mug",), seeds=tuple(range(8)))
    assert [f.verdict for f in find_differences(scores, one)] == ["NoRA higher than base"]
    single = {"CLIP-T": {"base": [0.1], "NoRA": [0.3]}}
    assert list(find_differences(single, replace(one, seeds=(0,)))) == []


def run_script(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *(str(argument) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(ended.value.code or 0)


def test_the_script_scores_everything_and_prints_the_verdicts(
    tiny_base, runs, photos, tmp_path, monkeypatch, capsys
):
    clip = tiny_clip(tmp_path / "clip")
    out = tmp_path / "scores"
    prompts = [f"a photo of a [V] mug number {n}" for n in range(6)]
    arguments = ["--adapters", *runs.values(), "--prompts", *prompts, "--seeds", 0, 1]
    arguments += ["--references", photos, "--model", tiny_base, "--clip", clip, "--out", out]
    arguments += ["--steps", 1, "--guidance", 1]
    assert run_script(monkeypatch, *arguments) == 0
    told = capsys.readouterr().out
    result = json.loads((out / "scores.json").read_text())
    assert list(result["scores"]) == ["CLIP-T", "CLIP-I"]
    for columns in result["scores"].values():
        assert list(columns) == ["base", "LoRA", "NoRA"]
        for column in columns.values():
            assert len(column["pictures"]) == 12
            assert column["mean"] == pytest.approx(np.mean(column["pictures"]))
            assert list(column["per_prompt"]) == prompts
    assert len(result["differences"]) == 6
    page = (out / "scores.md").read_text()
    assert result["clip"] == str(clip) and f"CLIP {clip}" in page and f"by CLIP {clip}." in told
    for finding in result["differences"]:
        assert finding["low"] <= finding["mean"] <= finding["high"]
        assert finding["verdict"] in told
        assert finding["verdict"] in page
    for text in (told, page):
        assert "over 6 prompts. They cover prompts and seeds of one subject" in text
    assert Image.open(out / "grid.png").size[1] > 6 * 256
    times = {file: file.stat().st_mtime_ns for file in (out / "pictures").rglob("*.png")}
    assert len(times) == 36
    assert run_script(monkeypatch, *arguments) == 0
    assert json.loads((out / "scores.json").read_text()) == result
    assert times == {f: f.stat().st_mtime_ns for f in (out / "pictures").rglob("*.png")}


def test_the_script_refuses_bad_input_in_one_line(
    tiny_base, runs, photos, tmp_path, monkeypatch, capsys
):
    good = {
        "--adapters": [runs["nora"]],
        "--prompts": ["a [V] mug"],
        "--model": [tiny_base],
        "--clip": [tiny_clip(tmp_path / "clip")],
        "--out": [tmp_path / "scores"],
        "--steps": [1],
    }
    bad = [
        {"--adapters": [tmp_path / "nowhere"]},
        {"--prompts": ["nowhere.txt"]},
        {"--references": [tmp_path / "nowhere"]},
        {"--seeds": [1, 1]},
        {"--model": [tmp_path]},
        {"--clip": [tmp_path]},
        {"--dino": [tmp_path]},
        {"--size": [12]},
        {"--steps": [0]},
    ]
    for change in bad:
        arguments = [word for flag, values in (good | change).items() for word in (flag, *values)]
        assert run_script(monkeypatch, *arguments) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("error: "), line
    assert not (tmp_path / "scores" / "scores.json").exists()
