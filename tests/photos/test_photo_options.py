"""The trainer's photo options from end to end: applied, refused if idle, resumable."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file
from support.scenes import save, scene
from support.trainer import (
    Outcome,
    ask_to_stop,
    only_unet,
    photo_set,
    run_trainer,
    tensors_of,
    tiny_arguments,
    tiny_options,
)

from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import parse_options
from nora_studio.runs.disk_cache import default_cache_folder
from nora_studio.runs.runs import Run

EVERYTHING = {
    "buckets": True,
    "crop": "random",
    "crops": 3,
    "flip": 0.5,
    "caption-dropout": 0.4,
    "mask-floor": 0.2,
    "weighting": "min-snr",
    "snr-gamma": 5,
    "noise-offset": 0.1,
    "prior-weight": 0.5,
    "class-pictures": 2,
}
SHORT = {"steps": 2, "sample-every": 0, "log-every": 1}


@pytest.fixture
def photos(photo_folder, tmp_path) -> Path:
    """A copy of the photos, one of them with a mask and one with words of its own."""
    return some_photos(photo_folder, tmp_path / "photos")


def some_photos(photo_folder: Path, place: Path) -> Path:
    folder = Path(shutil.copytree(photo_folder, place))
    mask = Image.new("L", (48, 40), 0)
    mask.paste(255, (10, 5, 40, 35))
    save(mask, folder / "a.mask.png")
    (folder / "b.txt").write_text("a picture of my [V] cup in the snow")
    return folder


@pytest.fixture(scope="module")
def plain(tiny_base, photo_folder, tmp_path_factory) -> list[float]:
    """The losses of a run without options."""
    place = tmp_path_factory.mktemp("plain")
    trained(tiny_base, some_photos(photo_folder, place / "photos"), place)
    return losses(place / "mug-nora")


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in Run.open(run).read_log()]


def trained(base: Path, photos: Path, runs: Path, changes: dict | None = None) -> Outcome:
    changes = only_unet({"name": "mug"} | SHORT | (changes or {}))
    outcome = run_trainer(*tiny_arguments(base, photos, runs, changes=changes))
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.mark.slow
def test_all_photo_options_together_resume_to_the_bit(tiny_base, photos, tmp_path):
    changes = EVERYTHING | {
        "name": "mug", "steps": 12, "log-every": 1, "checkpoint-every": 5, "sample-every": 0,
    }  # fmt: skip
    folders = {}
    for name in ("whole", "halves"):
        arguments = tiny_arguments(tiny_base, photos, tmp_path / name, changes=only_unet(changes))
        run = folders[name] = Run(tmp_path / name / "mug-nora")
        if name == "whole":
            outcome = run_trainer(*arguments)
            assert outcome.status == 0, outcome.err
            assert "3 photos, 18 images with masks of " in outcome.out
            continue
        watcher = ask_to_stop([run], signal.SIGINT, os.getpid())
        assert run_trainer(*arguments).status == 128 + signal.SIGINT
        watcher.join()
        shutil.rmtree(default_cache_folder("latents"))  # what goes on must not depend on it
        outcome = run_trainer(*arguments, "--resume")
        assert outcome.status == 0, outcome.err
    last = "checkpoints/step-000012"
    whole, halves = folders["whole"].folder, folders["halves"].folder
    assert tensors_of(whole / last) == tensors_of(halves / last)
    assert losses(whole) == losses(halves)
    state = load_file(whole / last / "state.safetensors")
    assert {"draws.crops", "draws.flips", "draws.captions", "draws.waiting"} <= state.keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"buckets": True},
        {"crop": "random"},
        {"caption-dropout": 1.0},
        {"masks": "none"},
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in ({"flip": 1.0}, {"mask-floor": 0.9}, {"no-captions": True})
        ),
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_option_changes_the_training(tiny_base, photos, tmp_path, changes, plain):
    trained(tiny_base, photos, tmp_path, changes)
    assert losses(tmp_path / "mug-nora") != plain


def test_the_training_without_an_option_is_reproducible(tiny_base, photos, tmp_path, plain):
    trained(tiny_base, photos, tmp_path)
    assert losses(tmp_path / "mug-nora") == plain


@pytest.mark.slow
def test_the_cache_changes_no_result_and_can_be_disabled(tiny_base, photos, tmp_path):
    shutil.rmtree(default_cache_folder("latents"), ignore_errors=True)
    trained(tiny_base, photos, tmp_path / "none", {"no-cache": True})
    assert not default_cache_folder("latents").exists()
    trained(tiny_base, photos, tmp_path / "cold")
    assert len(list(default_cache_folder("latents").iterdir())) == 3
    trained(tiny_base, photos, tmp_path / "warm")
    expected = tensors_of(tmp_path / "none" / "mug-nora" / "adapter")
    for name in ("cold", "warm"):
        assert tensors_of(tmp_path / name / "mug-nora" / "adapter") == expected


@pytest.mark.slow
def test_the_trainer_reports_findings_about_the_photos(tiny_base, tmp_path):
    photos = Path(
        shutil.copytree(embedded("subjects") / "sunrise-mug" / "photos", tmp_path / "photos")
    )
    slower = {"unet.learning-rate": 0.03}  # A larger one earns a warning of its own.
    outcome = trained(tiny_base, photos, tmp_path / "quiet", slower)
    assert "warning" not in outcome.out
    shutil.copy(photos / "1.jpg", photos / "9.jpg")
    (photos / "2.txt").write_text("a [V] mug " + "on the beach " * 60 + "at night")
    outcome = trained(tiny_base, photos, tmp_path / "runs")
    said = [
        line
        for line in outcome.out.splitlines()
        if line.startswith("warning: ") and "learning rate" not in line
    ]
    assert len(said) == 3
    assert "9.jpg: the same photo as 1.jpg" in said[0]
    assert "9.jpg: has no caption, but other photos have one" in said[1]
    assert f"the caption of {photos / '2.jpg'} is too long" in said[2]
    assert said[2].count("beach") < 60 and "at night'" in said[2]
    for number in range(3, 9):
        shutil.copy(photos / "0.jpg", photos / f"0-{number}.jpg")
    outcome = trained(tiny_base, photos, tmp_path / "many")
    said = [
        line
        for line in outcome.out.splitlines()
        if line.startswith("warning: ") and "learning rate" not in line
    ]
    assert len(said) == 7 and f"9 more; see `nora-studio check-photos {photos}`" in said[5]


def test_buckets_can_be_switched_either_way():
    for words, expected in ((["--buckets"], True), (["--no-buckets"], False), ([], None)):
        for more in ([], ["--flip", "0.5"]):
            options = parse_options(["--instance-dir", "a", "--prompt", "[V]", *words, *more])
            assert options.buckets is expected
    assert (
        parse_options(["--buckets", "False", "--instance-dir", "a", "--prompt", "b"]).buckets
        is False
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flip": 1.5}, "--flip: expected 0 to 1"),
        ({"caption_dropout": -0.1}, "--caption-dropout: expected 0 to 1"),
        ({"mask_floor": 2.0}, "--mask-floor: expected 0 to 1"),
        ({"mask_floor": 0.5, "masks": "none"}, "--mask-floor needs --masks"),
        ({"crops": 4}, "--crops needs --crop random"),
        ({"crops": 1, "crop": "random"}, "--crops: expected 2 or more"),
        ({"resolution": 100}, "--resolution: expected a multiple of 8"),
    ],
)
def test_idle_and_impossible_options_are_refused(tiny_base, photo_folder, tmp_path, changes, words):
    with pytest.raises(StudioError, match=words):
        with_recommended(tiny_options(tiny_base, photo_folder, tmp_path, **changes))


def test_missing_masks_are_refused(tiny_base, photo_folder, tmp_path):
    for changes, words in (({"masks": "alpha"}, "transparent"), ({"mask_floor": 0.3}, "none in")):
        options = tiny_options(tiny_base, photo_folder, tmp_path, **changes)
        with pytest.raises(StudioError, match=words):
            photo_set(options)


def test_a_mask_without_its_photo_is_refused(tiny_base, photos, tmp_path):
    save(scene(), photos / "zebra.mask.png")
    with pytest.raises(
        StudioError, match=r"zebra\.mask\.png: the folder has no photo named 'zebra'"
    ):
        photo_set(tiny_options(tiny_base, photos, tmp_path))
