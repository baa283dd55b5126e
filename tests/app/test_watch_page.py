"""A run that is watched while it trains: samples, scores, log, tracker and early stopping."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.tiny import tiny_clip
from support.trainer import Outcome, run_trainer, tiny_arguments
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nora_studio.photos.images import open_photo
from nora_studio.runs.runs import Run
from nora_studio.runs.trackers import check_tracker
from nora_studio.scoring.scores import clip_i, clip_t, load_scorer
from nora_studio.sdxl.recipes import read_recipe

PROMPTS = ("a photo of a [V] mug", "a [V] mug in the snow")
METHODS = ("lora", "nora")
NUMBERS = ("loss", "fixed_loss", "held_out_loss", "gradient_norm", "weight_norm", "memory_gib")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "clip")


def flags(
    base: Path, photos: Path, clip: Path, runs: Path, method: str = "lora,nora", **changes
) -> list[str]:
    """Two prompts, a judge, a tracker and measurements at every second step."""
    extra = {"hold-out": 1, "evaluate-every": 2, "keep-best": True, "keep-checkpoints": 4}
    extra |= {"clip": clip, "tracker": "tensorboard"}
    own = tiny_arguments(base, photos, runs, method, extra | changes)
    return [*own, "--sample-prompts", *PROMPTS]


@pytest.fixture(scope="module")
def watched(tiny_base, photo_folder, clip, tmp_path_factory) -> tuple[Path, Outcome]:
    """Folder of two finished runs, and what the trainer said. Read only."""
    runs = tmp_path_factory.mktemp("watched")
    outcome = run_trainer(*flags(tiny_base, photo_folder, clip, runs))
    assert outcome.status == 0, outcome.err
    return runs, outcome


def events(run: Run) -> EventAccumulator:
    found = EventAccumulator(str(run.folder / "tensorboard"), {"scalars": 0, "images": 0})
    return found.Reload()


def curve(run: Run, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(run).Scalars(name)]


def logged(run: Run, name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in run.read_log() if name in row]


def test_each_prompt_is_sampled_at_each_step_and_shown_in_the_grid(watched):
    for method in METHODS:
        samples = Run(watched[0] / f"mug-{method}").samples
        stems = ("base", "step-000003", "step-000006")
        drawn = [f"{stem}-{number:02d}.png" for stem in stems for number in (1, 2)]
        assert sorted(f.name for f in samples.iterdir()) == [*drawn, "twins.png", "wall.png"]
        for name in drawn:
            recipe = read_recipe(samples / name)
            assert recipe.prompt == PROMPTS[int(name[-5]) - 1]
            assert recipe.seed == 0
            assert recipe.method == (None if name.startswith("base") else method)
        with Image.open(samples / "wall.png") as wall, Image.open(samples / "twins.png") as twins:
            assert wall.height > 3 * 256 and twins.width > wall.width


def test_samples_are_scored_against_the_photo_held_out(watched, clip, photo_folder):
    runs, outcome = watched
    scorer = load_scorer(str(clip))
    photos = [open_photo(photo_folder / "c.jpg")]
    for method in METHODS:
        run = Run(runs / f"mug-{method}")
        rows = {row["step"]: row for row in run.read_log() if "sample_clip_t" in row}
        assert list(rows) == [0, 3, 6]
        for step, row in rows.items():
            stem = f"step-{step:06d}" if step else "base"
            pictures = [Image.open(run.sample_file(f"{stem}-0{n}")) for n in (1, 2)]
            expected = clip_i(scorer, pictures, photos).mean().item()
            assert row["sample_clip_i"] == pytest.approx(expected, abs=1e-5)
            expected = clip_t(scorer, pictures, PROMPTS).mean().item()
            assert row["sample_clip_t"] == pytest.approx(expected, abs=1e-5)
            assert row["sample_judge"] == str(clip)
        line = f"step 3, {method}: samples CLIP-I {rows[3]['sample_clip_i']:.3f}"
        assert line in outcome.out
    assert "against 1 held-out photo\n" in outcome.out


def test_the_tracker_has_every_number_of_the_log_and_the_samples(watched):
    for method in METHODS:
        run = Run(watched[0] / f"mug-{method}")
        told = {name: curve(run, name) for name in events(run).Tags()["scalars"]}
        names = {*NUMBERS, "sample_clip_i", "sample_clip_t"} - {"fixed_loss"}
        names |= {"seconds_per_step", "images_per_second"}
        parts = ("unet", "text_encoder", "text_encoder_2")
        by_part = {f"{what}/{part}" for what in ("learning_rate", "first_step") for part in parts}
        assert set(told) == names | by_part
        for name in names:
            assert told[name] == [(s, pytest.approx(v, rel=1e-6)) for s, v in logged(run, name)]
        images = events(run).Images("samples/02")
        assert [image.step for image in images] == [0, 3, 6]
        assert (images[0].width, images[0].height) == (32, 32)


def test_the_log_has_the_weights_norm(watched):
    run = Run(watched[0] / "mug-lora")
    tensors = [
        tensor
        for file in (run.checkpoints()[4]).rglob("adapter_model.safetensors")
        for tensor in load_file(file).values()
    ]
    norm = torch.stack([tensor.norm() for tensor in tensors]).norm().item()
    assert dict(logged(run, "weight_norm"))[4] == pytest.approx(norm, rel=1e-5)


def test_the_lowest_held_out_loss_is_named_in_the_status(watched):
    for method in METHODS:
        run = Run(watched[0] / f"mug-{method}")
        measured = [(loss, step) for step, loss in logged(run, "held_out_loss") if step]
        status = run.read_status()
        assert (status["best_loss"], status["best_step"]) == min(measured)
        assert status["best_step"] in run.checkpoints()
        assert (status["step"], status["adapter_step"], status["state"]) == (6, 6, "finished")


@pytest.mark.slow
def test_resuming_after_a_crash_logs_nothing_twice(
    watched, tiny_base, photo_folder, clip, tmp_path
):
    for method in METHODS:  # as a process leaves it that died after step 4, before step 6 was saved
        folder = Path(shutil.copytree(watched[0] / f"mug-{method}", tmp_path / f"mug-{method}"))
        config = (folder / "config.toml").read_text()
        (folder / "config.toml").write_text(config.replace(str(watched[0]), str(tmp_path)))
        shutil.rmtree(folder / "adapter")
        shutil.rmtree(folder / "checkpoints" / "step-000006")
    outcome = run_trainer(*flags(tiny_base, photo_folder, clip, tmp_path), "--resume")
    assert outcome.status == 0, outcome.err
    assert "Continuing after step 4" in outcome.out
    for method in METHODS:
        whole, resumed = (Run(top / f"mug-{method}") for top in (watched[0], tmp_path))
        for name in ("loss", "held_out_loss", "sample_clip_i", "sample_clip_t"):
            assert logged(resumed, name) == logged(whole, name)
            assert curve(resumed, name) == curve(whole, name)
        for name in ("wall.png", "twins.png"):
            assert (resumed.samples / name).read_bytes() == (whole.samples / name).read_bytes()


@pytest.mark.slow
def test_samples_that_a_stop_skipped_are_generated_on_resuming(
    watched, tiny_base, photo_folder, clip, tmp_path
):
    changes = {"steps": 4, "sample-every": 2, "tracker": "none"}
    arguments = flags(tiny_base, photo_folder, clip, tmp_path, "lora", **changes)
    assert run_trainer(*arguments).status == 0
    run = Run(tmp_path / "mug-lora")
    expected = {f.name: f.read_bytes() for f in run.samples.iterdir()}
    rows = logged(run, "sample_clip_t")
    shutil.rmtree(run.folder / "checkpoints" / "step-000004")
    for file in run.samples.glob("step-*"):
        file.unlink()
    log = [row for row in run.read_log() if row["step"] < 2 or "loss" in row]
    (run.folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    for _ in range(2):  # The second time nothing is left to do, and nothing is told again.
        assert run_trainer(*arguments, "--resume").status == 0
        assert {f.name: f.read_bytes() for f in run.samples.iterdir()} == expected
        assert logged(run, "sample_clip_t") == rows


def test_early_stopping_ends_a_run_before_its_last_step(tiny_base, photo_folder, tmp_path):
    parts = ("unet", "text-encoder", "text-encoder-2")
    still = {f"{part}.learning-rate": 1e-9 for part in parts}
    changes = {"evaluate-every": 1, "early-stop": "plateau", "patience": 2, "steps": 9}
    changes |= still | {"sample-every": 0}
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 2  # Nothing learned: the proof says so.
    assert "has no visible effect" in outcome.err
    assert "lora: ended after step 3 of 9; plateau at step 3" in outcome.out
    run = Run(tmp_path / "mug-lora")
    assert max(run.checkpoints()) == 3
    assert run.read_status()["ended"].startswith("plateau at step 3")
    assert run.read_status()["step"] == 3


def test_a_judge_that_cannot_be_loaded_leaves_no_run_behind(tiny_base, photo_folder, tmp_path):
    outcome = run_trainer(*flags(tiny_base, photo_folder, tmp_path / "none", tmp_path / "runs"))
    assert outcome.status == 2
    assert len(outcome.errors) == 1 and "--clip" in outcome.errors[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "command"),
    [("wandb", "pip install wandb"), ("tensorboard", "pip install 'nora-studio[trackers]'")],
)
def test_a_tracker_that_is_not_installed_names_the_command(monkeypatch, name, command):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ValueError, match="not installed") as refusal:
        check_tracker(name)
    assert command in str(refusal.value) and "\n" not in str(refusal.value)
    check_tracker("none")
