"""Captions and masks find their photos in any order, and every refused file is reported."""

import codecs
import io
import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nora_studio.app.pages.train_photos import show_photos
from nora_studio.app.server.draft_trash import restore_last, trash_photo
from nora_studio.app.server.drafts import DRAFT, submit_training
from nora_studio.app.server.photo_report import photo_report
from nora_studio.app.server.stored_photos import find_photo, mask_of
from nora_studio.app.server.upload_notes import dismiss_notes, upload_notes
from nora_studio.app.server.uploads import (
    Upload,
    add_photos,
    photos_of,
    remove_photo,
    replace_photo,
)
from nora_studio.app.server.workspace import Workspace
from nora_studio.photos.views import Framing, photo_views

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
WORDS = "a [V] mug, größer"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path / "home", "0" * 32)


@pytest.fixture
def add(workspace, tmp_path):
    """Uploads files by the visitor's names, at once; gives back what came of it."""

    def upload(**files):
        entries = []
        for number, (name, content) in enumerate(files.pop("files").items()):
            file = tmp_path / f"incoming-{number}"
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            entries.append(Upload(file, name))
        return add_photos(workspace, DRAFT, entries)

    return lambda files: upload(files=files)


def photo(seed: int = 0, width: int = 64, height: int = 64, kind: str = "JPEG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def mask(width: int = 64, height: int = 64, level: int = 255) -> bytes:
    image = Image.new("L", (width, height), 0)
    image.paste(level, (0, 0, width // 2, height))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def captions(workspace: Workspace) -> dict[str, str]:
    return {one.original: one.caption for one in photos_of(workspace, DRAFT)}


PAIRS = {
    "stem": ("IMG_7.jpg", "IMG_7.txt"),
    "upper case": ("IMG_7.jpg", "img_7.TXT"),
    "whole name": ("3.jpg", "3.jpg.txt"),
    "caption": ("3.jpg", "3.caption"),
    "decomposed": (f"{COMPOSED}.jpg", f"{DECOMPOSED}.txt"),
}


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("order", ["together", "caption after", "caption before"])
def test_a_caption_finds_its_photo_by_the_visitors_name(workspace, add, case, order):
    name, caption = PAIRS[case]
    add({"other.jpg": photo(1)})
    if order == "together":
        notes = add({caption: WORDS, name: photo()}).notes
    elif order == "caption after":
        add({name: photo()})
        notes = add({caption: WORDS}).notes
    else:
        (note,) = add({caption: WORDS}).notes
        assert note.kind == "waiting" and note.name == caption and caption in note.text
        assert upload_notes(workspace, DRAFT) == [note]
        notes = add({name: photo()}).notes
    assert notes == [] and upload_notes(workspace, DRAFT) == []
    assert captions(workspace) == {"other.jpg": "", name: WORDS}


@pytest.mark.parametrize("order", ["together", "mask after", "mask before"])
@pytest.mark.parametrize("name", ["3.mask.png", "3.jpg.MASK.PNG"])
def test_a_mask_finds_its_photo_and_is_not_a_photo(workspace, add, order, name):
    add({"other.jpg": photo(1)})
    uploads: list[dict] = [{"3.jpg": photo()}, {name: mask()}]
    if order == "together":
        uploads = [uploads[1] | uploads[0]]
    for files in reversed(uploads) if order == "mask before" else uploads:
        add(files)
    first, second = photos_of(workspace, DRAFT)
    assert [one.has_mask for one in (first, second)] == [False, True]
    assert upload_notes(workspace, DRAFT) == []
    (view,) = photo_views([second.file], Framing(64, masks="files", mask_floor=0.0))
    assert view.loss_mask[0, :, 4:].max() == 0 < view.loss_mask[0, :, :4].min()
    assert "64 × 64 · mask" in show_photos(workspace, "mug", "embedded", "")
    changed = replace_photo(
        workspace, DRAFT, second.name, Upload(second.file, "new.jpg")
    )  # A mask drawn on another picture would mark the wrong places.
    assert not changed.has_mask


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (mask(64, 32), "another shape"),
        (mask(level=0), "marks nothing"),
        (b"?", "cannot be read as a photo"),
    ],
    ids=["shape", "black", "content"],
)
@pytest.mark.parametrize("before", [True, False])
def test_an_unusable_mask_is_refused_by_the_visitors_name(
    workspace, add, tmp_path, content, words, before
):
    for files in ([{"3.mask.png": content}, {"3.jpg": photo()}])[:: 1 if before else -1]:
        add(files)
    (note,) = upload_notes(workspace, DRAFT)
    assert note.text.startswith("3.mask.png") and words in note.text and note.kind == "refused"
    assert str(tmp_path) not in note.text and "01" not in note.text
    assert not photos_of(workspace, DRAFT)[0].has_mask


def test_captions_in_utf_16_with_a_mark_are_accepted_and_other_encodings_refused(workspace, add):
    add({"1.jpg": photo(1), "2.jpg": photo(2), "3.jpg": photo(3)})
    marked = codecs.BOM_UTF16_LE + WORDS.encode("utf-16-le")
    received = add({"1.txt": marked, "2.txt": WORDS.encode("latin-1"), "3.txt": b" \n"})
    assert captions(workspace) == {"1.jpg": WORDS, "2.jpg": "", "3.jpg": ""}
    assert [note.name for note in received.notes] == ["2.txt", "3.txt"]
    assert "Save it as UTF-8" in received.problems[0] and "is empty" in received.problems[1]


def test_shared_and_ambiguous_captions_are_reported(workspace, add):
    (note,) = add({"1.jpg": photo(1), "1.png": photo(2, kind="PNG"), "1.txt": WORDS}).notes
    assert note.kind == "shared" and "each of 1.jpg and 1.png" in note.text
    assert captions(workspace) == {"1.jpg": WORDS, "1.png": WORDS}
    (note,) = add({"1.txt": "another [V]"}).notes
    assert note.kind == "refused" and "matches several photos" in note.text
    assert "such as 1.jpg.txt, or write the caption into its field." in note.text
    (note,) = add({"1.mask.png": photo(1, kind="PNG")}).notes
    assert note.kind == "refused" and note.text.endswith("such as 1.jpg.mask.png.")
    assert captions(workspace) == {"1.jpg": WORDS, "1.png": WORDS}
    assert add({"1.jpg": photo(3), "1.txt": "a third [V]"}).notes == []  # Of this upload first.
    assert [one.caption for one in photos_of(workspace, DRAFT)] == [WORDS, WORDS, "a third [V]"]
    (note,) = add({"1.jpg.txt": "a fourth [V]"}).notes
    assert note.kind == "refused" and "Delete all of them but one, and add it again" in note.text


def test_sidecar_files_are_skipped_and_other_files_are_named(workspace, add):
    files: dict[str, bytes] = dict.fromkeys(
        ("IMG_1.AAE", "IMG_1.MOV", "IMG_1.jpg.json", "a.npz", "Thumbs.db", "desktop.ini",
         ".DS_Store", "._IMG_1.jpg", "IMG_1.xmp"), b"?",
    )  # fmt: skip
    assert add({"IMG_1.jpg": photo(), **files}).notes == []
    received = add({"clip.mp4": b"?", "metadata.jsonl": b"{}", "a.psd": b"8BPS"})
    assert sorted(note.name for note in received.notes) == ["a.psd", "clip.mp4", "metadata.jsonl"]
    assert len(photos_of(workspace, DRAFT)) == 1


def test_refused_files_stay_listed_until_they_are_replaced_or_dismissed(workspace, add):
    bad = {f"holiday {number}.jpg": b"spoiled" for number in range(8)}
    assert len(add(bad).notes) == 8
    assert photos_of(workspace, DRAFT) == []
    page = show_photos(workspace, "mug", "embedded", "")
    assert all(name in page for name in bad) and 'data-act="dismiss-notes"' in page
    add({"holiday 3.jpg": photo(), "9.txt": WORDS})
    kept = upload_notes(workspace, DRAFT)
    assert [note.name for note in kept] == [*(n for n in bad if "3" not in n), "9.txt"]
    assert all(note.text.startswith(note.name) for note in kept)
    dismiss_notes(workspace, DRAFT)
    assert [note.name for note in upload_notes(workspace, DRAFT)] == ["9.txt"]
    page = show_photos(workspace, "mug", "embedded", "")
    assert "9.txt waits for its photo" in page and "dismiss-notes" not in page
    add({"9.jpg": photo(9)})
    assert upload_notes(workspace, DRAFT) == []
    assert captions(workspace)["9.jpg"] == WORDS


def test_the_report_uses_the_visitors_names_of_photos_captions_and_masks(workspace, add):
    add({"beach.jpg": photo(1), "2.jpg": photo(2), "snow.jpg": photo(1)})
    add({"beach.mask.png": mask(), "snow.txt": WORDS})
    folder = workspace.photos / DRAFT
    (folder / "01.mask.png").write_bytes(mask(64, 32))
    (folder / "03.txt").write_text("no subject", "utf-8")
    report = photo_report(workspace, DRAFT, 64)
    told = [remark.text for some in report.photos.values() for remark in some]
    told += [remark.text for remark in report.overall]
    assert any(text.startswith("The same photo as beach.jpg.") for text in told)
    assert any(text.startswith("The mask of beach.jpg is 64x32, another shape") for text in told)
    assert any(text.startswith("The caption of snow.jpg: expected [V]") for text in told)
    assert not any(name in text for text in told for name in ("01.", "02.", "03."))


def test_a_removed_photos_caption_and_mask_are_removed_and_waiting_files_are_not_trained_on(
    workspace, add, tmp_path
):
    add(
        {"1.jpg": photo(1), "2.jpg": photo(2), "2.txt": WORDS, "2.mask.png": mask(), "7.txt": WORDS}
    )
    remove_photo(workspace, DRAFT, "02.jpg")
    names = {file.name for file in (workspace.photos / DRAFT).iterdir()}
    assert names >= {"01.jpg", ".waiting"} and not any(name.startswith("02") for name in names)
    jobs = SimpleNamespace(submit=lambda *arguments, **named: arguments)
    options = SimpleNamespace(
        instance_dir=Path("photos/mug"), run_name="mug", resolution=64, methods=("nora",)
    )
    submit_training(workspace, jobs, [], options, 64)  # pyright: ignore[reportArgumentType]
    copied = {file.name for file in (workspace.photos / "mug").iterdir()}
    assert "01.jpg" in copied and not {".waiting", ".upload-notes.json", ".lock"} & copied


def test_a_damaged_list_of_waiting_files_is_ignored(workspace, add):
    add({"7.txt": WORDS, "bad.jpg": b"?"})
    folder = workspace.photos / DRAFT
    for text in ("no json", json.dumps({"../../x": "7.txt"}), json.dumps([1])):
        (folder / ".waiting" / "names.json").write_text(text, "utf-8")
        (folder / ".upload-notes.json").write_text(text, "utf-8")
        assert upload_notes(workspace, DRAFT) == []
        assert add({"7.jpg": photo()}).notes == []


@pytest.mark.parametrize("text", ["no json", "[1]", '{"01.jpg": {"original": 3}}'])
def test_a_damaged_list_of_photos_is_rebuilt_from_the_photos(workspace, add, text):
    add({"mug.jpg": photo(), "mug.txt": WORDS})
    (whole,) = photos_of(workspace, DRAFT)
    (workspace.photos / DRAFT / "names.json").write_text(text, "utf-8")
    (found,) = photos_of(workspace, DRAFT)
    assert found == replace(whole, original="01.jpg")
    add({"again.jpg": photo(2)})
    assert [one.original for one in photos_of(workspace, DRAFT)] == ["01.jpg", "again.jpg"]


def test_a_removed_photo_is_restored_with_its_caption_and_mask(workspace, add):
    add({"1.jpg": photo(1), "2.jpg": photo(2), "2.txt": WORDS, "2.mask.png": mask()})
    before = mask_of(find_photo(workspace, DRAFT, "02.jpg").file).read_bytes()
    trash_photo(workspace, "02.jpg")
    restore_last(workspace)
    found = {one.original: one for one in photos_of(workspace, DRAFT)}
    assert (found["2.jpg"].caption, found["1.jpg"].has_mask) == (WORDS, False)
    assert mask_of(found["2.jpg"].file).read_bytes() == before
