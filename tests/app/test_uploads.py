"""Uploads are judged by their content and not by their names, and stay within limits."""

import io
import json
import os
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from pillow_heif import register_heif_opener

from nora_studio.app.server.photo_report import REPORT, photo_report
from nora_studio.app.server.quota import used_bytes
from nora_studio.app.server.uploads import (
    MAX_PHOTO_BYTES,
    MAX_PHOTOS,
    Upload,
    add_photos,
    photos_of,
    remove_photo,
    remove_subject,
    replace_photo,
    set_caption,
    subjects_of,
)
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded
from nora_studio.photos.images import list_photos

PHOTOS = embedded("subjects") / "sunrise-mug" / "photos"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path / "home", "0" * 32)


@pytest.fixture
def make(tmp_path):
    """Writes a file to upload: bytes, or a picture in some format."""

    def write(content, name="photo.jpg", kind="JPEG", **options) -> Upload:
        file = tmp_path / "incoming" / f"{len(list(tmp_path.rglob('*')))}"
        file.parent.mkdir(exist_ok=True)
        if isinstance(content, Image.Image):
            stream = io.BytesIO()
            content.save(stream, kind, **options)
            content = stream.getvalue()
        file.write_bytes(content)
        return Upload(file, name)

    return write


def picture(width=64, height=48, colour: str | tuple[int, int, int] = "red") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def test_the_shipped_photos_are_added_with_their_captions(workspace):
    files = [Upload(file, file.name) for file in sorted(PHOTOS.iterdir())]
    received = add_photos(workspace, "mug", files)
    assert received.problems == [] and len(received.photos) == 5
    assert [photo.name for photo in received.photos] == [f"{n:02d}.jpg" for n in range(1, 6)]
    for photo, number in zip(received.photos, range(5), strict=True):
        assert photo.file.read_bytes() == (PHOTOS / f"{number}.jpg").read_bytes()
        assert photo.caption == (PHOTOS / f"{number}.txt").read_text().strip()
        assert photo.original == f"{number}.jpg"
        with Image.open(photo.thumbnail) as small:
            assert small.format == "WEBP" and max(small.size) <= 320
    assert photos_of(workspace, "mug") == received.photos
    assert subjects_of(workspace) == ["mug"]
    # The trainer takes the folder as it is.
    assert list_photos(workspace.photos / "mug") == [photo.file for photo in received.photos]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("JPEG", ".jpg"),
        ("PNG", ".png"),
        ("WEBP", ".webp"),
        ("HEIF", ".heic"),
        ("AVIF", ".avif"),
        ("TIFF", ".tif"),
        ("BMP", ".bmp"),
        ("GIF", ".gif"),
    ],
)
def test_the_content_decides_the_format_and_the_bytes_are_kept(workspace, make, kind, suffix):
    register_heif_opener()
    entry = make(picture(), "holiday.exe", kind)
    photo = add_photos(workspace, "mug", [entry]).photos[0]
    assert photo.name == f"01{suffix}" and photo.original == "holiday.exe"
    assert photo.file.read_bytes() == entry.file.read_bytes()
    assert list_photos(workspace.photos / "mug") == [photo.file]


def test_a_turned_photo_is_measured_upright_and_its_thumbnail_has_no_metadata(workspace, make):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    photo = add_photos(workspace, "mug", [make(picture(64, 48), exif=exif)]).photos[0]
    assert (photo.width, photo.height) == (48, 64)
    with Image.open(photo.thumbnail) as small:
        assert small.size == (48, 64) and not small.getexif() and "exif" not in small.info


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that says it has so many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        mark = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + mark

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def test_files_that_are_not_photos_are_named_and_the_others_are_stored(workspace, make, tmp_path):
    whole = make(picture()).file.read_bytes()
    bad = {
        "empty.jpg": b"",
        "page.jpg": b"<html><script>1</script>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "script.png": b"#!/bin/sh\n",
        "pickle.jpg": b"\x80\x04K\x01.",
        "paper.jpg": b"%PDF-1.4\n",
        "vector.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n",
        "cut.jpg": whole[: len(whole) // 2],
        "bomb.png": bomb(60_000, 60_000),
        "large.png": bomb(7_800, 7_800),
        "short.png": bomb(64, 64),
        "icon.jpg": make(picture(16, 16)).file.read_bytes(),
    }
    files = [make(content, name) for name, content in bad.items()]
    received = add_photos(workspace, "mug", [*files, make(picture(), "good.jpg")])
    assert [photo.original for photo in received.photos] == ["good.jpg"]
    assert len(received.problems) == len(bad)
    for name, problem in zip(bad, received.problems, strict=True):
        assert problem.startswith(name) and "\n" not in problem
        assert str(tmp_path) not in problem and problem.endswith(".")
    names = {file.name for file in (workspace.photos / "mug").iterdir()}
    assert names == {"01.jpg", "names.json", ".thumbs", ".lock", ".upload-notes.json"}


def test_limits_of_size_count_and_disk_hold(workspace, make):
    small = make(picture())
    received = add_photos(workspace, "mug", [small] * (MAX_PHOTOS + 2))
    assert len(received.photos) == MAX_PHOTOS and len(received.problems) == 2
    assert "at most 50 photos" in received.problems[0]
    again = add_photos(workspace, "cup", [small], quota=used_bytes(workspace))
    assert again.photos == [] and "your folder holds" in again.problems[0]
    assert add_photos(workspace, "cup", [small], quota=used_bytes(workspace) + 10_000).photos
    os.truncate(small.file, MAX_PHOTO_BYTES + 1)  # Holes take no room on the disk.
    assert "; the limit is " in add_photos(workspace, "pot", [small]).problems[0]


@given(
    name=st.one_of(
        st.text(max_size=300),
        st.sampled_from(
            ["../../x.jpg", "/etc/passwd", "..\\..\\x.jpg", "a\x00.jpg", "-rf", "$(id).png", ".txt"]
        ),
    )
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_name_is_text_and_never_a_path(workspace, make, name):
    root = workspace.folder.parent.parent
    before = {file for file in root.rglob("*") if workspace.photos not in file.parents}
    received = add_photos(workspace, "mug", [make(picture(), name)])
    for photo in received.photos:
        assert photo.file.parent == workspace.photos / "mug" and photo.file.stem.isdigit()
        assert photo.original.isprintable() and "/" not in photo.original
    assert {file for file in root.rglob("*") if workspace.photos not in file.parents} == before
    if subjects_of(workspace):
        remove_subject(workspace, "mug")


@pytest.mark.parametrize("name", ["../mug", "/etc", "", "Mug", "a b", ".trash", "a\x00", "-x", "é"])
def test_a_subject_must_be_a_safe_name(workspace, make, name):
    with pytest.raises(StudioError, match="expected a name"):
        add_photos(workspace, name, [make(picture())])
    with pytest.raises(StudioError, match="expected a name"):
        photos_of(workspace, name)


def test_a_photo_is_removed_and_replaced_with_its_caption_and_mask(workspace, make):
    add_photos(workspace, "mug", [make(picture(colour=c)) for c in ("red", "green", "blue")])
    set_caption(workspace, "mug", "02.jpg", "a [V] mug")
    replaced = replace_photo(workspace, "mug", "02.jpg", make(picture(80, 80), "b.png", "PNG"))
    assert replaced.name == "02.png" and replaced.caption == "a [V] mug"
    assert [photo.name for photo in photos_of(workspace, "mug")] == ["01.jpg", "02.png", "03.jpg"]
    with pytest.raises(StudioError, match="cannot be read as a photo"):
        replace_photo(workspace, "mug", "02.png", make(b"none"))
    assert photos_of(workspace, "mug")[1] == replaced
    remove_photo(workspace, "mug", "03.jpg")
    remove_photo(workspace, "mug", "02.png")
    left = {file.name for file in (workspace.photos / "mug").iterdir()}
    assert left == {"01.jpg", "names.json", ".thumbs", ".lock"}
    assert [file.name for file in (workspace.photos / "mug" / ".thumbs").iterdir()] == ["01.webp"]
    for name in ("02.png", "../01.jpg", "names.json", "", "01.JPG", "01"):
        with pytest.raises(StudioError, match="there is no photo"):
            remove_photo(workspace, "mug", name)
    remove_photo(workspace, "mug", "01.jpg")
    assert subjects_of(workspace) == []


def test_simultaneous_photos_get_different_numbers(workspace, make):
    entries = [make(picture(colour=(n, 0, 0)), f"{n}.jpg") for n in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda entry: add_photos(workspace, "mug", [entry]), entries))
    photos = photos_of(workspace, "mug")
    assert [photo.name for photo in photos] == [f"{n:02d}.jpg" for n in range(1, 13)]
    assert {photo.original for photo in photos} == {entry.name for entry in entries}


def test_a_caption_must_contain_the_placeholder(workspace, make):
    add_photos(workspace, "mug", [make(picture())])
    assert (
        set_caption(workspace, "mug", "01.jpg", " a [V]\x00 mug\n on\tgrass ")
        == "a [V] mug on grass"
    )
    assert photos_of(workspace, "mug")[0].caption == "a [V] mug on grass"
    for text, told in (("a mug", r"\[V\]"), ("[V]" + "x" * 500, "at most 500")):
        with pytest.raises(StudioError, match=told):
            set_caption(workspace, "mug", "01.jpg", text)
    assert photos_of(workspace, "mug")[0].caption == "a [V] mug on grass"
    assert set_caption(workspace, "mug", "01.jpg", "  ") == ""
    assert not (workspace.photos / "mug" / "01.txt").exists()


def test_an_invalid_caption_is_reported(workspace, make):
    files = [
        make(picture(), "a.jpg"),
        make(b"no subject", "a.txt"),
        make(b"\xff\xfe\x00", "a.txt"),
        make(b"a [V]", "z.txt"),
        make(b"x" * 9000, "a.txt"),
    ]
    received = add_photos(workspace, "mug", files)
    assert len(received.photos) == 1 and received.photos[0].caption == ""
    assert [problem.split()[0].rstrip(":") for problem in received.problems] == [
        "a.txt",
        "a.txt",
        "z.txt",
        "a.txt",
    ]


def test_the_report_names_photos_and_no_server_folder(workspace, make, tmp_path):
    files = [Upload(file, file.name) for file in sorted(PHOTOS.glob("*.jpg"))]
    add_photos(workspace, "mug", files)
    assert photo_report(workspace, "mug", 256).photos == {}
    with Image.open(PHOTOS / "0.jpg") as image:
        soft = make(image.filter(ImageFilter.GaussianBlur(4)), "soft.jpg")
    add_photos(workspace, "mug", [soft, files[1]])
    report = photo_report(workspace, "mug", 256)
    assert {name: [r.kind for r in told] for name, told in report.photos.items()} == {
        "06.jpg": ["blurred", "near-duplicate"],
        "07.jpg": ["duplicate"],
    }
    assert report.photos["07.jpg"][0].text.startswith("The same photo as 1.jpg.")
    assert report.is_usable and str(tmp_path) not in json.dumps(str(report))
    assert str(tmp_path) not in (workspace.photos / "mug" / REPORT).read_text()
    for name in [photo.name for photo in photos_of(workspace, "mug")][2:]:
        remove_photo(workspace, "mug", name)
    few = photo_report(workspace, "mug", 256)
    assert [remark.kind for remark in few.overall] == ["few"]
    assert few.overall[0].text.startswith("2 photo(s)")
    (workspace.photos / "mug" / "01.jpg").write_bytes(b"spoiled")
    spoiled = photo_report(workspace, "mug", 256)
    assert not spoiled.is_usable and str(tmp_path) not in str(spoiled)
    assert photo_report(workspace, "nothing", 256).photos == {}


def test_a_report_is_cached_until_something_changes(workspace, make):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    add_photos(workspace, "mug", [make(Image.fromarray(noise), "a.png", "PNG")])
    first, kept = photo_report(workspace, "mug", 64), workspace.photos / "mug" / REPORT
    looks = [kept.stat().st_mtime_ns]  # Each look at the photos writes the file once more.
    assert photo_report(workspace, "mug", 64) == first and kept.stat().st_mtime_ns == looks[0]
    assert "tiny" in [r.kind for r in photo_report(workspace, "mug", 512).photos["01.png"]]
    looks.append(kept.stat().st_mtime_ns)
    set_caption(workspace, "mug", "01.png", "a [V] mug")
    photo_report(workspace, "mug", 512)
    assert looks[0] < looks[1] < kept.stat().st_mtime_ns
    shutil.copy(workspace.photos / "mug" / "names.json", workspace.photos / "mug" / REPORT)
    assert photo_report(workspace, "mug", 512).overall[0].kind == "few"
