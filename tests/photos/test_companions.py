"""Captions and masks are matched with their photos or named, by the trainer and the check."""

import codecs
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.scenes import save
from support.trainer import photo_set, tiny_options

from nora_studio.cli.main import dispatch
from nora_studio.errors import StudioError
from nora_studio.photos.companions import PhotoNames
from nora_studio.photos.images import list_photos
from nora_studio.photos.prompts import read_prompts
from nora_studio.photos.views import Framing, photo_views
from nora_studio.tasks.dreambooth.photo_set import PhotoSet

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
OWN = "a [V] mug on grass"
PROMPT = "a photo of a [V] mug"


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "mug"
    place.mkdir()
    return place


def photo(folder: Path, name: str, number: int = 0) -> Path:
    noise = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    big = Image.fromarray(noise).resize((64, 64), Image.Resampling.NEAREST)
    return save(big, folder / name)


def trained(folder: Path, base: Path, **changes) -> PhotoSet:
    return photo_set(tiny_options(base, folder, folder.parent / "runs", **changes))


def report(folder: Path, capsys) -> list[str]:
    capsys.readouterr()
    assert dispatch(["check-photos", str(folder), "--resolution", "64"]) == 0
    return capsys.readouterr().out.splitlines()


USED = {
    "upper case": ("1.jpg", "1.TXT"),
    "upper-case photo": ("IMG_1.JPG", "img_1.txt"),
    "whole name": ("1.jpg", "1.jpg.txt"),
    "caption": ("1.jpg", "1.caption"),
    "upper-case caption": ("1.jpg", "1.jpg.CAPTION"),
    "decomposed text": (f"{COMPOSED}.jpg", f"{DECOMPOSED}.txt"),
    "decomposed photo": (f"{DECOMPOSED}.png", f"{COMPOSED}.png.txt"),
    "several dots": ("mug.v2.jpg", "mug.v2.txt"),
}


@pytest.mark.parametrize("case", USED)
def test_a_caption_is_used_however_it_is_spelt(folder, tiny_base, capsys, case):
    name, caption = USED[case]
    photo(folder, name)
    photo(folder, "other.png", 1)
    (folder / caption).write_text(OWN, "utf-8")
    found = trained(folder, tiny_base)
    assert dict(zip([file.name for file in found.files], found.captions, strict=True)) == {
        name: OWN,
        "other.png": PROMPT,
    }
    lines = [line for line in report(folder, capsys) if "no caption" in line or " is not " in line]
    assert len(lines) == 1 and "other.png: has no caption" in lines[0]


NAMED = {
    "no photo": (["1.jpg"], ["2.txt"], "2.txt", "the folder has no photo named '2'"),
    "second one": (["1.jpg"], ["1.txt", "1.caption"], "1.caption", "1.txt is the caption of 1.jpg"),
    "whole name wins": (["1.jpg"], ["1.txt", "1.jpg.txt"], "1.txt", "1.jpg.txt is the caption of"),
    "shared": (["1.jpg", "1.png"], ["1.txt"], "1.txt", "the caption of both 1.jpg and 1.png"),
    "own list": (
        ["1.jpg"],
        ["captions.jsonl"],
        "captions.jsonl",
        "expected captions of a whole folder in metadata.jsonl",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_a_caption_that_is_not_used_for_one_photo_is_named_in_one_line(
    folder, tiny_base, capsys, case
):
    names, captions, named, words = NAMED[case]
    for number, name in enumerate(names):
        photo(folder, name, number)
    for caption in captions:
        (folder / caption).write_text(OWN, "utf-8")
    lines = [line for line in report(folder, capsys) if f"{folder / named} is" in line]
    assert len(lines) == 1 and words in lines[0] and lines[0].endswith(".")
    assert lines[0] in trained(folder, tiny_base).warnings
    assert not any(
        str(folder / named) in w for w in trained(folder, tiny_base, captions=False).warnings
    )


def test_a_metadata_line_that_a_text_file_overrides_is_named(folder, tiny_base):
    photo(folder, f"{COMPOSED}.jpg")
    line = f'{{"file_name": "{DECOMPOSED}.jpg", "text": "a [V] cup"}}'
    (folder / "metadata.jsonl").write_text(line, "utf-8")
    assert trained(folder, tiny_base).captions == ["a [V] cup"]
    (folder / f"{COMPOSED}.txt").write_text(OWN, "utf-8")
    found = trained(folder, tiny_base)
    assert found.captions == [OWN]
    assert any("metadata.jsonl: its line for" in line for line in found.warnings)


MARKS = {"utf-8": b"", "utf-8-sig": b"", "utf-16-le": codecs.BOM_UTF16_LE,
         "utf-16-be": codecs.BOM_UTF16_BE}  # fmt: skip


@pytest.mark.parametrize("encoding", MARKS)
def test_captions_and_prompts_are_read_in_utf_8_and_marked_utf_16(folder, tiny_base, encoding):
    photo(folder, "1.jpg")
    words = "ein [V] Becher, größer"
    content = MARKS[encoding] + words.encode(encoding)
    (folder / "1.txt").write_bytes(content)
    assert trained(folder, tiny_base).captions == [words]
    (folder / "1.txt").rename(folder.parent / "prompts.txt")
    assert read_prompts([str(folder.parent / "prompts.txt")]) == [words]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-32", "utf-16-cut"])
def test_other_encodings_are_refused_in_one_line(folder, tiny_base, encoding):
    photo(folder, "1.jpg")
    content = (
        "größer [V]".encode("utf-16")[:-1]
        if encoding == "utf-16-cut"
        else "größer [V]".encode(encoding)
    )
    (folder / "1.txt").write_bytes(content)
    for read in (
        lambda: trained(folder, tiny_base),
        lambda: read_prompts([str(folder / "1.txt")]),
    ):
        with pytest.raises(StudioError, match=r"1\.txt cannot be read: .*Save it as UTF-8") as told:
            read()
        assert "\n" not in str(told.value)


MASKS = ["1.mask.png", "1.MASK.PNG", "1.jpg.mask.png"]


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_is_used_however_it_is_spelt(folder, tiny_base, mask):
    file = photo(folder, "1.jpg")
    before = trained(folder, tiny_base).record()
    half = Image.new("L", (64, 64), 0)
    half.paste(255, (0, 0, 32, 64))
    half.save(folder / mask, format="PNG")
    (view,) = photo_views([file], Framing(64, masks="files", mask_floor=0.0))
    assert view.loss_mask[0, :, 4:].max() == 0 and view.loss_mask[0, :, :4].min() > 0
    assert trained(folder, tiny_base).record() != before
    assert trained(folder, tiny_base, mask_floor=0.1).files == [file]


def test_a_mask_of_two_photos_is_named(folder, tiny_base, capsys):
    photo(folder, "1.jpg")
    photo(folder, "1.png", 1)
    Image.new("L", (64, 64), 255).save(folder / "1.mask.png")
    (line,) = [line for line in report(folder, capsys) if "1.mask.png is" in line]
    assert "read as the mask of both 1.jpg and 1.png" in line and "1.jpg.mask.png" in line
    assert line in trained(folder, tiny_base).warnings


def test_videos_are_named_except_live_photos(folder, tiny_base, capsys):
    photo(folder, "1.jpg")
    (folder / "1.MOV").write_bytes(b"?")
    assert not any("videos are" in line for line in report(folder, capsys))
    (folder / "clip.mp4").write_bytes(b"?")
    (line,) = [line for line in report(folder, capsys) if "videos are" in line]
    assert "(clip.mp4)" in line and line in trained(folder, tiny_base).warnings


def test_all_unusable_photos_are_named_at_once(folder, tiny_base):
    for number in range(4):
        photo(folder, f"{number}.jpg", number)
    for number in (1, 3):
        (folder / f"{number}.jpg").write_bytes(b"spoiled")
    with pytest.raises(StudioError, match=r"1\.jpg cannot be read.*Other photos .*\(3\.jpg\):"):
        trained(folder, tiny_base)


def test_the_closest_spelling_and_the_whole_name_take_precedence():
    owners = PhotoNames(["A.jpg", "a.jpg", "a.jpg.png", "B.jpg", "b.png"])
    assert owners.matching("a") == ["a.jpg"] and owners.matching("A") == ["A.jpg"]
    assert owners.matching("a.jpg") == ["a.jpg"]
    assert owners.matching("b") == ["b.png"] and owners.matching("B.JPG") == ["B.jpg"]
    assert owners.matching("c") == []


def test_a_photo_keeps_its_name_in_the_list(folder):
    photo(folder, f"{DECOMPOSED}.jpg")
    assert [file.name for file in list_photos(folder)] == [f"{DECOMPOSED}.jpg"]
