"""The trainer ends with status 2 and one line with the remedy for every mistake."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.tiny import tiny_sdxl
from support.trainer import Outcome, run_trainer, tiny_arguments

from nora_studio.runs.runs import Run


def assert_refused(outcome: Outcome, *words: str) -> str:
    assert outcome.status == 2, outcome.out + outcome.err
    assert len(outcome.errors) == 1, outcome.err
    assert outcome.err.splitlines()[-1] == outcome.errors[0]  # nothing after it, no traceback
    for word in words:
        assert word in outcome.errors[0]
    return outcome.errors[0]


@pytest.fixture
def refused(tiny_base, photo_folder, tmp_path):
    """Run the trainer with changed flags, and check that it refuses before it makes a run."""

    def run(changes: dict, *words: str, method: str = "nora") -> None:
        flags = tiny_arguments(tiny_base, photo_folder, tmp_path / "runs", method, changes)
        assert_refused(run_trainer(*flags), *words)
        assert not list((tmp_path / "runs").glob("*")), "the name is taken now, by nothing"

    return run


@pytest.fixture
def photos(photo_folder, tmp_path) -> Path:
    """A copy of the photos, to be spoiled."""
    return Path(shutil.copytree(photo_folder, tmp_path / "photos"))


def test_a_folder_without_photos_is_refused(refused, tmp_path):
    refused({"instance-dir": tmp_path / "nowhere"}, "nowhere does not exist")
    (tmp_path / "empty").mkdir()
    refused({"instance-dir": tmp_path / "empty"}, "no photos in", ".jpg")


def test_a_corrupt_photo_is_refused(refused, photos):
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:200])
    refused({"instance-dir": photos}, "b.png cannot be read as an image")


def test_a_photo_that_is_too_small_is_refused(refused, photos):
    Image.new("RGB", (20, 300)).save(photos / "d.png")
    refused({"instance-dir": photos}, "d.png is 20x300", "32")


def test_a_file_that_is_no_photo_is_refused(refused, photos):
    (photos / "clip.psd").write_bytes(b"?")
    refused({"instance-dir": photos}, "clip.psd is of an unknown kind")


def test_a_model_that_does_not_exist_is_refused(refused, tmp_path):
    refused({"model": tmp_path / "nowhere"}, "--model", "nowhere")
    refused({"model": "nobody/such-model"}, "--model", "nobody/such-model")
    refused({"model": "not a name"}, "--model", "not a name")


def test_a_folder_that_is_no_pipeline_is_refused(refused, photo_folder, tiny_base):
    refused({"model": photo_folder}, "model_index.json", "that contains unet/")
    refused({"model": tiny_base / "unet"}, "model_index.json", "that contains unet/")


def test_a_pipeline_of_another_kind_is_refused(refused, tiny_base, tmp_path):
    model = Path(shutil.copytree(tiny_base, tmp_path / "model"))
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(
        json.dumps(index | {"_class_name": "StableDiffusionPipeline"})
    )
    refused({"model": model}, "StableDiffusionXLPipeline", "says StableDiffusionPipeline")
    (model / "model_index.json").write_text("{")
    refused({"model": model}, "not valid JSON")


@pytest.mark.parametrize("part", ["unet", "text_encoder_2", "vae"])
def test_a_pipeline_with_a_damaged_or_missing_file_is_refused(refused, tiny_base, tmp_path, part):
    model = Path(shutil.copytree(tiny_base, tmp_path / "model"))
    weights = next((model / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    refused({"model": model}, "--model", "could not be loaded")
    weights.unlink()
    refused({"model": model}, "--model", "could not be loaded")


def test_a_prompt_without_the_subject_is_refused(refused):
    refused({"prompt": "a photo of a mug"}, "--prompt", "[V]")


def test_a_rank_that_does_not_fit_is_refused(refused):
    refused({"unet.rank": 100, "unet.outer-rank": 100}, "rank must be 1-64", "to_q", "64x64")
    refused({"unet.rank": 16}, "outer")  # above NoRA's outer rank, 8 here
    refused({"unet.rank": 100}, "rank must be 1-64", method="lora")


def test_a_timestep_beyond_the_schedule_is_refused(refused):
    refused({"max-timestep": 0}, "--max-timestep", "above 0", "got 0")
    refused({"max-timestep": 1001}, "--max-timestep", "1 to 1000", "got 1001")


def test_an_unknown_method_is_refused(refused):
    refused({"method": "nora,lroa"}, "'lroa'", "lora")


def test_a_trigger_of_several_tokens_is_refused(refused):
    refused({"trigger": "mugwump"}, "--trigger", "'mugwump'", "Leave --trigger out")


def test_a_model_without_any_rare_word_is_refused(refused):
    refused({"trigger": None}, "no rare word", "--trigger")  # the tiny tokenizer knows few words


def test_a_run_name_that_exists_is_refused(twins, tiny_base, photo_folder):
    runs, _ = twins
    before = (runs / "mug-lora" / "config.toml").read_bytes()
    for method in ("lora", "nora,lora"):
        flags = tiny_arguments(tiny_base, photo_folder, runs, method)
        assert_refused(run_trainer(*flags), "is a run already", "--resume", "--name")
    assert (runs / "mug-lora" / "config.toml").read_bytes() == before


def test_resuming_a_run_that_does_not_exist_is_refused(tiny_base, photo_folder, tmp_path):
    flags = tiny_arguments(tiny_base, photo_folder, tmp_path)
    assert_refused(run_trainer(*flags, "--resume"), "--resume", "is not a run")


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("steps", 5, ("steps = 6", "got 5")),
        ("seed", 1, ("seed = 0", "got 1")),
        ("unet.rank", 3, ("unet.rank = 2", "got 3")),
        ("noise-offset", 0.5, ("noise_offset = 0.0", "got 0.5")),
    ],
)
def test_resuming_with_a_changed_option_is_refused(
    twins, tiny_base, photo_folder, flag, value, words
):
    flags = tiny_arguments(tiny_base, photo_folder, twins[0], "nora,lora", {flag: value})
    line = assert_refused(run_trainer(*flags, "--resume"), "--resume", *words)
    assert "config.toml" in line


@pytest.fixture
def one_run(tiny_base, photo_folder, twins, tmp_path):
    """A copy of the finished twins, to be spoiled, and the flags to resume them."""
    for method in ("nora", "lora"):
        shutil.copytree(twins[0] / f"mug-{method}", tmp_path / f"mug-{method}")
    config = tmp_path / "config.toml"
    text = (tmp_path / "mug-nora" / "config.toml").read_text()
    config.write_text(text.replace(str(twins[0]), str(tmp_path)))
    for method in ("nora", "lora"):
        shutil.copy(config, tmp_path / f"mug-{method}" / "config.toml")
    return tmp_path, ["--config", str(config), "--resume"]


def test_resuming_twins_without_a_common_checkpoint_is_refused(one_run):
    folder, flags = one_run
    shutil.rmtree(folder / "mug-lora" / "checkpoints")
    assert_refused(run_trainer(*flags), "no checkpoint", "mug-lora", "Restore a checkpoint")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_and_no_line_is_logged_twice(one_run):
    folder, flags = one_run
    newest = folder / "mug-lora" / "checkpoints" / "step-000006"
    file, adapter = newest / "state.safetensors", newest / "unet" / "adapter_model.safetensors"
    whole = file.read_bytes()
    for spoiled, content in ((file, whole[:-5]), (adapter, b"")):
        spoiled.write_bytes(content)
        outcome = run_trainer(*flags)
        assert outcome.status == 0, outcome.err
        assert f"{newest} is damaged ({spoiled.relative_to(newest)}" in outcome.out
        assert "Continuing after step 4 of 6" in outcome.out
    for method in ("nora", "lora"):  # the lines past step 4 were written anew, not twice
        assert [row["step"] for row in Run(folder / f"mug-{method}").read_log()] == [2, 4, 6]


def test_resuming_on_a_base_that_has_changed_is_refused(one_run, tiny_base, tmp_path):
    folder, flags = one_run
    other = tiny_sdxl(tmp_path / "other", seed=1)
    for file in folder.rglob("config.toml"):
        file.write_text(file.read_text().replace(str(tiny_base), str(other)))
    assert_refused(run_trainer(*flags), "--model", "step-000006", "unet weights differ")


def test_a_folder_that_cannot_be_written_is_reported(tiny_base, photo_folder, tmp_path):
    (tmp_path / "file").write_text("")
    flags = tiny_arguments(tiny_base, photo_folder, tmp_path / "file")
    assert_refused(run_trainer(*flags), "cannot be written")


def test_a_learning_rate_that_destroys_the_model_is_reported(tiny_base, photo_folder, tmp_path):
    changes = {"unet.learning-rate": 1e30, "steps": 20, "checkpoint-every": 1, "log-every": 50}
    flags = tiny_arguments(tiny_base, photo_folder, tmp_path, "lora,nora", changes)
    line = assert_refused(run_trainer(*flags), "not finite at step 3", "the learning rate")
    assert "mug-lora are kept" in line
    for method in ("nora", "lora"):
        run = Run.open(tmp_path / f"mug-{method}")
        assert list(run.checkpoints()) == [1, 2]
        assert not run.adapter.exists()
        status = run.read_status()
        assert status["state"] == "failed"
        assert "not finite at step 3" in status["error"]


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_base_with_nan_is_refused(tiny_base, photo_folder, tmp_path, part):
    model = Path(shutil.copytree(tiny_base, tmp_path / "model"))
    file = next((model / part).glob("*.safetensors"))
    state = load_file(file)
    state["conv_in.weight" if part == "unet" else "encoder.conv_in.weight"][0] = torch.nan
    save_file(state, file, metadata={"format": "pt"})
    flags = tiny_arguments(model, photo_folder, tmp_path)
    assert_refused(run_trainer(*flags), "NaN")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stepz", "3"], ("--stepz", "--steps")),
        (["--steps", "many"], ("--steps",)),
        (["--precision", "int8"], ("int8", "bf16")),
        (["--unet.rnak", "3"], ("rnak", "--unet.rank")),
    ],
)
def test_a_mistaken_flag_is_refused(tiny_base, photo_folder, tmp_path, flags, words):
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path), *flags)
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    assert all(word in outcome.err + outcome.out for word in words)
