"""The fidelity script measures every point once and continues after a stop."""

import contextlib
import io
import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from support.places import TOP
from support.tiny import tiny_clip
from support.trainer import Outcome

from nora_studio.errors import StudioError
from nora_studio.photos.images import list_photos, open_photo
from nora_studio.runs.runs import Run
from nora_studio.scoring.compare import GenerationSettings, read_image
from nora_studio.scoring.fidelity import read_fidelity
from nora_studio.scoring.fidelity_judging import Judges, find_checkpoints, plan_points, score_of
from nora_studio.scoring.scores import clip_i, clip_t, load_scorer
from nora_studio.scoring.statistics import paired_difference
from nora_studio.sdxl.recipes import read_recipe

SCRIPT = TOP / "evaluation" / "fidelity.py"
PROMPTS = ["a photo of a [V] mug", "a [V] mug in the snow"]


def measured(*arguments: object) -> Outcome:
    """Run the script here, as `python evaluation/fidelity.py` would."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [str(SCRIPT), *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return Outcome(int(end.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("the script ended without an exit status")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="module")
def arguments(twins, photo_folder, clip) -> list[object]:
    runs, _ = twins
    named = ["--adapters", runs / "mug-nora", runs / "mug-lora", "--references", photo_folder]
    named += ["--prompts", *PROMPTS, "--seeds", 0, 1, "--strengths", 0.5, 1]
    return [*named, "--clip", clip, "--steps", 1, "--guidance", 1]


@pytest.fixture(scope="module")
def done(arguments, tmp_path_factory) -> tuple[Path, Outcome]:
    out = tmp_path_factory.mktemp("fidelity")
    return out, measured(*arguments, "--out", out)


def test_every_checkpoint_is_measured_at_every_strength(done):
    out, outcome = done
    assert outcome.status == 0, outcome.err
    result = read_fidelity(out)
    assert result.is_whole
    points = {(p.run, p.step, p.strength, p.is_final) for p in result.points}
    assert points == {
        (run, step, strength, step == 6)
        for run in ("mug-nora", "mug-lora")
        for step in (4, 6)
        for strength in (0.5, 1.0)
    }
    for point in result.points:
        assert len(point.pictures) == 4
        for name, (prompt, seed) in zip(
            point.pictures, [(p, s) for p in PROMPTS for s in (0, 1)], strict=True
        ):
            recipe = read_recipe(out / name)
            assert (recipe.prompt, recipe.seed, recipe.strength) == (prompt, seed, point.strength)
            assert recipe.method == point.method
    assert len({(out / p.pictures[0]).read_bytes() for p in result.points}) == len(result.points)


def test_scores_are_those_of_the_score_command_by_prompt(done, clip, photo_folder):
    out, _ = done
    result, scorer = read_fidelity(out), load_scorer(str(clip))
    photos = [open_photo(file) for file in list_photos(photo_folder)]
    for point in (result.base, result.points[0], result.points[-1]):
        images = [read_image(out / name) for name in point.pictures]
        written = [prompt for prompt in PROMPTS for _ in (0, 1)]
        for name, values in (
            ("CLIP-T", clip_t(scorer, images, written)),
            ("CLIP-I", clip_i(scorer, images, photos)),
        ):
            by_prompt = values.reshape(2, 2).mean(dim=1).tolist()
            score = point.scores[name]
            assert score.units == pytest.approx(by_prompt, abs=1e-6)
            _, low, high = paired_difference(by_prompt, [0.0, 0.0])
            assert (score.low, score.high) == pytest.approx((low, high), abs=1e-6)


def test_the_page_and_the_terminal_show_the_same(done):
    out, outcome = done
    page = (out / "fidelity.md").read_text()
    covered = "over 2 prompts. They cover prompts and seeds of one subject"
    for words in ("mug-nora", "mug-lora", "base", "real photos", covered):
        assert words in page
        assert words in outcome.out
    judged = f"Judged by CLIP {read_fidelity(out).clip}."
    assert judged in page and judged in outcome.out
    assert (out / "fidelity.png").stat().st_size > 10_000
    kept = json.loads((out / "fidelity.json").read_text())
    first = kept["points"][0]["scores"]["CLIP-T"]
    assert f"{first['mean']:.3f} ({first['low']:.3f} to {first['high']:.3f})" in page


def test_only_a_lost_image_is_generated_again(done, arguments, tmp_path):
    out = Path(shutil.copytree(done[0], tmp_path / "out"))
    before = {file: file.stat().st_mtime_ns for file in out.rglob("pictures/**/*.png")}
    kept = (out / "fidelity.json").read_text()
    lost = sorted(before)[3]
    lost.unlink()
    (out / "fidelity.json").unlink()
    assert measured(*arguments, "--out", out).status == 0
    after = {file: file.stat().st_mtime_ns for file in before}
    assert [file for file in before if before[file] != after[file]] == [lost]
    assert (out / "fidelity.json").read_text() == kept


def test_the_result_is_written_after_every_point(done, arguments, tmp_path, monkeypatch):
    out = Path(shutil.copytree(done[0], tmp_path / "out"))
    (out / "fidelity.json").unlink()
    seen: list[int] = []
    replace = Path.replace

    def watched(self, target):
        replace(self, target)
        if target == out / "fidelity.json":
            seen.append(len(read_fidelity(out).points))

    monkeypatch.setattr(Path, "replace", watched)
    assert measured(*arguments, "--out", out).status == 0
    assert seen == [*range(8), 8]


def test_checkpoints_of_the_final_step_are_not_measured_twice(twins, tmp_path):
    run = Path(shutil.copytree(twins[0] / "mug-nora", tmp_path / "mug-nora"))
    assert sorted(Run(run).checkpoints()) == [4, 6]
    found = find_checkpoints(run, 2)
    assert [(c.run, c.card.steps, c.is_final) for c in found] == [
        ("mug-nora", 4, False),
        ("mug-nora", 6, True),
    ]
    assert [c.card.steps for c in find_checkpoints(run, 0)] == [6]
    shutil.rmtree(run / "adapter")
    assert [(c.card.steps, c.is_final) for c in find_checkpoints(run, 2)] == [
        (4, False),
        (6, False),
    ]
    with pytest.raises(StudioError, match=r"no final adapter yet\. .+ --checkpoints 1"):
        find_checkpoints(run, 0)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(StudioError, match="first one"):
        find_checkpoints(run, 2)


def test_points_as_trained_come_first(twins):
    runs = [twins[0] / name for name in ("mug-nora", "mug-lora")]
    every = [checkpoint for run in runs for checkpoint in find_checkpoints(run, 2)]
    plan = [(c.run, c.card.steps, s) for c, s in plan_points(every, (0.6, 1.0))]
    assert plan[:3] == [("mug-nora", 6, 1.0), ("mug-lora", 6, 1.0), ("mug-nora", 4, 1.0)]
    assert len(plan) == len(set(plan)) == 8


def test_the_photos_are_scored_with_every_prompt_and_with_each_other(clip, photo_folder):
    scorer = load_scorer(str(clip))
    photos = [open_photo(file) for file in list_photos(photo_folder)]
    judges = Judges.prepare(scorer, None, photos, PROMPTS)
    features = scorer.image_features(photos)
    pairs = [float(features[a] @ features[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    real = judges.photo_scores(2)
    assert real["CLIP-I"] == pytest.approx((sum(pairs) / 3,) * 2, abs=1e-6)
    for told, prompt in zip(real["CLIP-T"], PROMPTS, strict=True):
        each = clip_t(scorer, photos, [prompt] * len(photos))
        assert told == pytest.approx(float(each.mean()), abs=1e-6)
    assert judges.nearest_photos == pytest.approx(max(pairs), abs=1e-6)
    nearest = judges.judge(photos, [PROMPTS[0]] * 3)["nearest"]
    assert torch.allclose(nearest, torch.ones(3), atol=1e-5)  # Each photo is its own copy.
    with pytest.raises(StudioError, match="at least two"):
        Judges.prepare(scorer, None, photos[:1], PROMPTS)


def test_with_one_prompt_its_seeds_are_the_units():
    drawing = GenerationSettings("tiny", ("a [V] mug",), (0, 1, 2), 1, 1.0, 32)
    assert score_of([0.1, 0.2, 0.6], drawing).units == (0.1, 0.2, 0.6)
    alone = score_of([0.1], GenerationSettings("tiny", ("a [V] mug",), (0,), 1, 1.0, 32))
    assert (alone.units, alone.low) == ((0.1,), None)


def test_bad_input_is_refused_in_one_line(arguments, twins, photo_folder, tmp_path):
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    shutil.copy(list_photos(photo_folder)[0], lonely)
    bad = [
        ["--adapters", tmp_path / "nowhere"],
        ["--adapters", twins[0] / "mug-nora", twins[0] / "mug-nora"],
        ["--references", tmp_path / "nowhere"],
        ["--references", lonely],
        ["--strengths", 0],
        ["--strengths", 1, 1],
        ["--checkpoints", -1],
        ["--dino", tmp_path],
        ["--size", 12],
    ]
    for change in bad:
        ended = measured(*arguments, "--out", tmp_path / "out", *change)
        assert ended.status == 2, change
        assert len(ended.errors) == 1, ended.err
    assert not (tmp_path / "out" / "fidelity.json").exists()
