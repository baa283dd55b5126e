"""Photos of every format are decoded upright and in RGB; other files are refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.scenes import HEIGHT, JPEG_LEVELS, WIDTH, levels, save, scene

from nora_studio.errors import StudioError
from nora_studio.photos.images import list_photos, open_photo
from nora_studio.photos.views import Framing, photo_views, prepare_photo
from nora_studio.scoring.compare import read_image
from nora_studio.sdxl.recipes import read_recipe
from nora_studio.tasks.dreambooth.wall import _picture


def assert_refused(file: Path, *words: str) -> None:
    """Refused in one line that names the file."""
    with pytest.raises(StudioError) as refusal:
        open_photo(file)
    message = str(refusal.value)
    assert "\n" not in message
    for word in (str(file), *words):
        assert word in message


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright_by_their_exif(tmp_path, orientation):
    # EXIF 2.32, tag 0x0112: where the stored first row and first column are in the picture.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(np.ascontiguousarray(stored(np.asarray(scene()))))
    file = save(turned, tmp_path / "photo.png", exif=exif)
    photo = open_photo(file)
    assert photo.size == (WIDTH, HEIGHT)
    assert (levels(photo) == levels(scene())).all()
    assert prepare_photo(file, 32).original_size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp", ".avif", ".JPG"])
def test_lossy_formats_keep_the_picture(tmp_path, suffix):
    photo = open_photo(save(scene(), tmp_path / f"photo{suffix}", quality=95))
    assert photo.mode == "RGB"
    assert np.abs(levels(photo) - levels(scene())).max() <= JPEG_LEVELS


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_lossless_formats_keep_every_level(tmp_path, suffix):
    photo = open_photo(save(scene(), tmp_path / f"photo{suffix}"))
    assert (levels(photo) == levels(scene())).all()


def test_transparency_is_laid_on_white(tmp_path):
    image = scene().convert("RGBA")
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, 16:32], alpha[:, 32:] = 128, 255
    image.putalpha(Image.fromarray(alpha))
    photo = levels(open_photo(save(image, tmp_path / "photo.png")))
    assert (photo[:, :16] == 255).all()
    assert (photo[:, 32:] == levels(scene())[:, 32:]).all()
    mixed = levels(scene())[:, 16:32] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(photo[:, 16:32] - mixed).max() <= 1


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path):
    image = Image.new("P", (40, 40), 0)
    image.putpalette([10, 200, 30, 90, 0, 160])
    image.paste(1, (0, 0, 20, 40))
    photo = open_photo(save(image, tmp_path / "photo.png", transparency=1))
    assert photo.getpixel((0, 0)) == (255, 255, 255)
    assert photo.getpixel((39, 39)) == (10, 200, 30)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    for suffix in (".png", ".tif"):
        photo = levels(open_photo(save(Image.fromarray(ramp), tmp_path / f"photo{suffix}")))
        assert np.abs(photo - (ramp / 257)[..., None]).max() <= 1


def test_grey_and_two_level_pictures_become_rgb(tmp_path):
    grey = scene().convert("L")
    photo = open_photo(save(grey, tmp_path / "grey.jpg", quality=95))
    assert np.abs(levels(photo) - levels(grey)[..., None]).max() <= JPEG_LEVELS
    assert set(np.unique(levels(open_photo(save(grey.convert("1"), tmp_path / "ink.png"))))) == {
        0,
        255,
    }


def test_cmyk_keeps_its_colours(tmp_path):
    photo = open_photo(save(scene().convert("CMYK"), tmp_path / "print.jpg", quality=95))
    assert photo.mode == "RGB"
    assert np.abs(levels(photo) - levels(scene())).max() <= JPEG_LEVELS


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".avif"])
@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.9])
def test_a_truncated_photo_is_refused(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    file = save(Image.fromarray(noise), tmp_path / f"photo{suffix}")
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    assert_refused(file, "cannot be read")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".avif"])
def test_a_damaged_photo_is_refused_or_read_but_never_a_crash(tmp_path, suffix):
    content = save(scene(), tmp_path / f"photo{suffix}").read_bytes()
    random, file, refused = np.random.default_rng(0), tmp_path / f"broken{suffix}", 0
    for _ in range(40):
        damaged = bytearray(content)
        for place in random.integers(0, len(content), 8):
            damaged[place] = random.integers(256)
        file.write_bytes(damaged)
        try:
            open_photo(file)
        except StudioError:
            refused += 1
    assert refused


def test_a_renamed_file_that_is_no_image_is_refused(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_text("dear diary")
    assert_refused(file, "cannot be read", "Replace or remove it")


def test_a_tiny_image_is_refused(tmp_path):
    assert_refused(save(scene(400, 31), tmp_path / "strip.png"), "400x31", "32")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, side):
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(side, side))
    assert_refused(file, "the limit is 120 megapixels. Scale it down.")


def masked_by(file: Path) -> list:
    """Read a photo with a file as its mask."""
    photo = save(scene(), file.with_name("photo.jpg"))
    file.rename(file.with_name("photo.mask.png"))
    return list(photo_views([photo], Framing(32, masks="files")))


@pytest.mark.parametrize("door", [open_photo, read_recipe, read_image, masked_by, _picture])
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_every_reader_refuses_a_too_large_image_with_the_same_message(tmp_path, side, door):
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(side, side))
    with pytest.raises(StudioError, match=r"\.png has .*the limit is 120 megapixels\. Scale"):
        door(file)


def test_the_pixel_limit_is_the_one_in_the_message(tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(bomb(12_000, 10_000))  # a hundred-megapixel camera's is not refused for size
    assert_refused(file, "image file is truncated")
    file.write_bytes(bomb(12_000, 10_001))
    assert_refused(file, "12000x10001", "120 megapixels")


def test_the_photos_of_a_folder_are_listed_by_name_without_other_files(tmp_path):
    for name in ("b.png", "a.jpg", "c.JPEG"):
        save(scene(), tmp_path / name)
    scene().save(tmp_path / "d.JFIF", format="JPEG")
    for name in (
        "a.txt", "b.caption", "notes.md", ".DS_Store", "Thumbs.db", "desktop.ini", "a.xmp",
        "a.npz", "a_te_outputs.npz", "IMG_1.AAE", "a.MOV", "a.mp4", "a.jpg.json",
        "a.jpg.supplemental-metadata.json", "metadata.jsonl",
    ):  # fmt: skip
        (tmp_path / name).write_text("not a photo")
    (tmp_path / "older").mkdir()
    assert [file.name for file in list_photos(tmp_path)] == ["a.jpg", "b.png", "c.JPEG", "d.JFIF"]
    assert open_photo(tmp_path / "d.JFIF").size == (WIDTH, HEIGHT)


def test_a_file_of_an_unknown_kind_is_refused_by_name(tmp_path):
    save(scene(), tmp_path / "a.jpg")
    (tmp_path / "b.psd").write_bytes(b"?")
    with pytest.raises(StudioError, match=r"b\.psd is of an unknown kind \(\.psd\)"):
        list_photos(tmp_path)


def test_files_of_unknown_kinds_are_listed_at_once(tmp_path):
    save(scene(), tmp_path / "a.jpg")
    for name in ("b.psd", "c.CR2", "d", *(f"x{number:02d}.raw" for number in range(30))):
        (tmp_path / name).write_bytes(b"?")
    with pytest.raises(StudioError) as refusal:
        list_photos(tmp_path, "--references")
    told = str(refusal.value)
    assert told.startswith("--references: 33 files in ") and "\n" not in told
    assert "(b.psd, c.CR2, d, x00.raw, " in told and "x16.raw and 13 more)" in told


def test_photos_in_a_subfolder_are_pointed_out(tmp_path):
    for name in ("10_mug", "1_cup"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("a mug")
    save(scene(), tmp_path / "10_mug" / "a.jpg")
    save(scene(), tmp_path / "10_mug" / "a.mask.png")
    with pytest.raises(StudioError) as refusal:
        list_photos(tmp_path)
    assert f"in its folder {tmp_path / '10_mug'} (1). Name that folder." in str(refusal.value)
    save(scene(), tmp_path / "1_cup" / "a.jpg")
    with pytest.raises(StudioError, match=r"10_mug \(1\), .*1_cup \(1\)\. Name one of these"):
        list_photos(tmp_path)


def test_folders_without_photos_are_refused(tmp_path):
    with pytest.raises(StudioError, match="no photos in"):
        list_photos(tmp_path)
    with pytest.raises(StudioError, match="does not exist"):
        list_photos(tmp_path / "nowhere")
    file = tmp_path / "file.jpg"
    file.touch()
    with pytest.raises(StudioError, match="is a file"):
        list_photos(file)


@pytest.mark.parametrize("size", [(48, 36), (36, 48), (40, 40), (33, 200), (1000, 640)])
@pytest.mark.parametrize("resolution", [32, 64])
def test_time_ids_equal_those_of_sdxl(tmp_path, size, resolution):
    width, height = size
    photo = prepare_photo(save(scene(width, height), tmp_path / "a.png"), resolution)
    # SDXL, 2.2: (original height, width), (top, left) of the crop, (target height, width).
    shorter = min(width, height)
    resized = [max(resolution, round(side * resolution / shorter)) for side in (height, width)]
    top, left = ((side - resolution) // 2 for side in resized)
    assert photo.time_ids == [height, width, top, left, resolution, resolution]
    assert photo.pixels.shape == (3, resolution, resolution)


def test_the_crop_is_the_centre_at_full_height(tmp_path):
    photo = prepare_photo(save(scene(96, 32), tmp_path / "wide.png"), 32)
    expected = np.asarray(scene(96, 32), dtype=np.float32)[:, 32:64].transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(photo.pixels.numpy() - expected).max() < 1e-6  # not resized: every level as it is


def test_pixels_fill_minus_one_to_one(tmp_path):
    for level, value in ((0, -1.0), (255, 1.0)):
        file = save(Image.new("RGB", (40, 40), (level,) * 3), tmp_path / "flat.png")
        assert (prepare_photo(file, 32).pixels == value).all()
