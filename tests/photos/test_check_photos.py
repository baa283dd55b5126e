"""The photo check: it finds spoiled photos with file and remedy, and no good ones."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from nora_studio.cli.main import dispatch
from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded
from nora_studio.photos.inspection import Finding, inspect_folder

REAL = os.environ.get("NORA_STUDIO_DREAMBOOTH")
"""Folder of the public DreamBooth data set, where a developer has it."""


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five good photos, 256 pixels square, with captions."""
    return Path(shutil.copytree(embedded("subjects") / "sunrise-mug" / "photos", tmp_path / "mug"))


def found(folder: Path, **options) -> dict[str, list[Finding]]:
    kinds: dict[str, list[Finding]] = {}
    given: dict[str, Any] = {"resolution": 256} | options
    for finding in inspect_folder(folder, **given).findings:
        assert "\n" not in finding.message
        assert str(finding.file) in finding.message
        kinds.setdefault(finding.kind, []).append(finding)
    return kinds


def only(folder: Path, kind: str, name: str, **options) -> Finding:
    """The one finding there is."""
    kinds = found(folder, **options)
    assert list(kinds) == [kind] and len(kinds[kind]) == 1, kinds
    assert kinds[kind][0].file.name == name
    return kinds[kind][0]


def change(folder: Path, name: str, how) -> None:
    with Image.open(folder / name) as image:
        changed = how(image.convert("RGB"))
    changed.save(folder / name, quality=95)


@pytest.mark.parametrize(
    "subject", sorted(f.name for f in embedded("subjects").iterdir() if f.is_dir())
)
def test_the_shipped_photos_have_no_findings(subject):
    assert found(embedded("subjects") / subject / "photos") == {}


@pytest.mark.skipif(not REAL, reason="NORA_STUDIO_DREAMBOOTH names no folder of real photos")
def test_real_photos_have_no_findings():
    folders = [folder for folder in sorted(Path(REAL or "").iterdir()) if folder.is_dir()]
    assert folders
    for folder in folders:
        assert found(folder, resolution=512) == {}, folder


def test_a_copy_under_another_name_is_found(photos):
    shutil.copy(photos / "1.jpg", photos / "9.jpg")
    shutil.copy(photos / "1.txt", photos / "9.txt")
    assert "same photo as 1.jpg" in only(photos, "duplicate", "9.jpg").message


@pytest.mark.parametrize(
    "how",
    [
        lambda image: image.resize((200, 200)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.2),
        lambda image: image.crop((4, 4, 252, 252)),
    ],
    ids=["smaller", "brighter", "cropped"],
)
def test_a_changed_copy_is_found(photos, how):
    for suffix in (".jpg", ".txt"):
        shutil.copy(photos / f"1{suffix}", photos / f"9{suffix}")
    change(photos, "9.jpg", how)
    assert "nearly the same photo as 1.jpg" in only(photos, "near-duplicate", "9.jpg").message


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("blurred", lambda image: image.filter(ImageFilter.GaussianBlur(2.0))),
        ("dark", lambda image: ImageEnhance.Brightness(image).enhance(0.1)),
        ("bright", lambda image: image.point(lambda level: 225 + level // 9)),
        ("aspect", lambda image: image.resize((768, 256))),
        ("tiny", lambda image: image.resize((150, 150), Image.Resampling.LANCZOS)),
    ],
)
def test_a_spoiled_photo_is_named_with_its_problem(photos, kind, how):
    change(photos, "2.jpg", how)
    only(photos, kind, "2.jpg")


@pytest.mark.parametrize("how", [lambda image: image, lambda image: image.resize((200, 200))])
def test_a_mirrored_copy_is_found(photos, how):
    for suffix in (".jpg", ".txt"):
        shutil.copy(photos / f"1{suffix}", photos / f"9{suffix}")
    change(photos, "9.jpg", lambda image: how(ImageOps.mirror(image)))
    told = only(photos, "mirrored", "9.jpg").message
    assert "mirror image of 1.jpg" in told and "--flip" in told


def framed(box: tuple[int, int, int, int]):
    """The picture on black, scaled into a box of 256 pixels square."""

    def frame(image: Image.Image) -> Image.Image:
        ground = Image.new("RGB", (256, 256))
        ground.paste(image.resize((box[2] - box[0], box[3] - box[1])), box[:2])
        return ground

    return frame


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 32, 256, 224), ["above and below (25%)"]),
        ((20, 0, 236, 256), ["left and right (15%)"]),
        ((32, 16, 224, 240), ["above and below", "left and right"]),
    ],
)
def test_black_bars_are_named_with_the_sides_that_they_are_on(photos, box, words):
    change(photos, "2.jpg", framed(box))
    told = only(photos, "bars", "2.jpg").message
    assert all(word in told for word in words) and "Crop them off" in told


def test_a_dark_sky_and_a_subject_on_black_are_not_bars(photos):
    def night(image: Image.Image) -> Image.Image:
        light = np.clip(np.linspace(-0.6, 1.6, 256), 0, 1)
        light = np.minimum(light, light[::-1] + 0.2)[:, None, None]
        return Image.fromarray((np.asarray(image) * light).astype(np.uint8))

    def on_black(image: Image.Image) -> Image.Image:
        down, right = np.mgrid[-1:1:256j, -1:1:256j]
        inside = (down**2 + right**2 < 0.7)[..., None]
        return Image.fromarray((np.asarray(image) * inside).astype(np.uint8))

    change(photos, "2.jpg", night)
    change(photos, "3.jpg", on_black)
    assert "bars" not in found(photos)


def test_noise_and_a_soft_ground_are_not_blur(photos):
    # Sharp in a fifth of the picture, as with an open lens.
    def portrait(image: Image.Image) -> Image.Image:
        soft = image.filter(ImageFilter.GaussianBlur(4))
        box = (70, 70, 186, 186)
        soft.paste(image.crop(box), box[:2])
        return soft

    change(photos, "2.jpg", portrait)
    assert found(photos) == {}


def test_tiny_depends_on_the_resolution(photos):
    assert found(photos, resolution=256) == {}
    assert len(found(photos, resolution=1024)["tiny"]) == 5
    assert "4.0 times" in found(photos, resolution=1024)["tiny"][0].message
    assert found(photos, resolution=None) == {}


def test_an_animation_is_reported_once(photos):
    frames = [Image.open(photos / f"{n}.jpg").rotate(180) for n in (0, 1)]
    frames[0].save(photos / "9.webp", save_all=True, append_images=frames[1:], lossless=True)
    (photos / "9.txt").write_text("a [V] mug")
    only(photos, "animated", "9.webp")


def test_few_and_many_photos_are_reported(photos):
    for name in ("2", "3", "4"):
        (photos / f"{name}.jpg").unlink()
        (photos / f"{name}.txt").unlink()
    only(photos, "few", photos.name)
    random = np.random.default_rng(0)
    for number in range(60):
        noise = random.integers(0, 256, (8, 8, 3), np.uint8)
        big = Image.fromarray(noise).resize((256, 256), Image.Resampling.NEAREST)
        big.save(photos / f"n{number}.png")
    assert set(found(photos, captions=False)) == {"many"}


def test_missing_captions_and_masks_are_reported_if_others_have_them(photos):
    (photos / "3.txt").unlink()
    only(photos, "caption", "3.jpg")
    assert found(photos, captions=False) == {}
    for file in photos.glob("*.txt"):
        file.unlink()
    assert found(photos) == {}
    for name in "0124":
        Image.new("L", (256, 256), 255).save(photos / f"{name}.mask.png")
    only(photos, "mask", "3.jpg")
    Image.new("L", (256, 256), 255).save(photos / "8.mask.png")
    assert any(finding.is_unusable for finding in found(photos)["mask"])


def run(capsys, *arguments: object) -> tuple[int, str]:
    status = dispatch(["check-photos", *map(str, arguments)])
    return status, capsys.readouterr().out


def test_the_command_prints_a_line_per_finding_and_ends_with_0_or_2(photos, capsys):
    status, out = run(capsys, photos, "--resolution", 256)
    assert status == 0 and out == f"{photos}: 5 photos, no problems found.\n"
    change(photos, "2.jpg", lambda image: image.filter(ImageFilter.GaussianBlur(3)))
    status, out = run(capsys, photos, "--resolution", 256)
    assert status == 0 and out.startswith("warning: ") and "2.jpg" in out and out.count("\n") == 1
    (photos / "4.jpg").write_bytes(b"no picture")
    status, out = run(capsys, photos, "--resolution", 256)
    assert status == 2
    assert [line.split(":")[0] for line in out.splitlines()] == ["warning", "unusable"]
    status, out = run(capsys, photos, "--resolution", 256, "--json")
    assert status == 2
    told = json.loads(out)
    assert told["photos"] == 5
    assert [(f["kind"], f["is_unusable"]) for f in told["findings"]] == [
        ("blurred", False),
        ("corrupt", True),
    ]
    with pytest.raises(StudioError, match="does not exist"):
        run(capsys, photos / "nowhere")
