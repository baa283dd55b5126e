"""Colours are decoded by each file's profile, mode and depth."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.MpoImagePlugin import MpoImageFile
from support.profiles import (
    P3_TO_XYZ_D50,
    SRGB_TO_XYZ_D50,
    cmyk_that_is_all_grey,
    display_p3_linear,
)
from support.scenes import HEIGHT, JPEG_LEVELS, WIDTH, levels, save, scene

from nora_studio.errors import StudioError
from nora_studio.photos.images import decode_photo, list_photos, open_photo


def srgb_of_linear_p3(pixels: np.ndarray) -> np.ndarray:
    """The same colours in sRGB, by the two spaces' definitions (IEC 61966-2-1 for the curve)."""
    linear = pixels / 255 @ (np.linalg.inv(SRGB_TO_XYZ_D50) @ P3_TO_XYZ_D50).T
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return curved * 255


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_a_wide_gamut_photo_keeps_its_colours(tmp_path, suffix):
    options = {"quality": 100} if suffix in (".jpg", ".webp") else {}
    flat = Image.new("RGB", (40, 40), (120, 90, 60))
    file = save(flat, tmp_path / f"photo{suffix}", icc_profile=display_p3_linear(), **options)
    expected = srgb_of_linear_p3(np.array([120, 90, 60]))
    assert np.abs(levels(open_photo(file))[20, 20] - expected).max() <= 3
    assert np.abs(expected - [120, 90, 60]).max() > 40  # left alone, it would show


def test_transparency_and_palettes_survive_a_profile(tmp_path):
    expected = srgb_of_linear_p3(np.array([120, 90, 60]))
    image = Image.new("RGBA", (40, 40), (120, 90, 60, 255))
    image.paste((9, 9, 9, 0), (0, 0, 20, 40))
    photo = decode_photo(save(image, tmp_path / "a.png", icc_profile=display_p3_linear()))
    assert np.abs(levels(photo.image)[20, 30] - expected).max() <= 2
    assert photo.image.getpixel((5, 5)) == (255, 255, 255)
    assert photo.alpha is not None
    assert (levels(photo.alpha)[:, :20] == 0).all() and (levels(photo.alpha)[:, 20:] == 255).all()
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([120, 90, 60])
    file = save(palette, tmp_path / "b.png", icc_profile=display_p3_linear())
    assert np.abs(levels(open_photo(file))[5, 5] - expected).max() <= 2


def test_an_srgb_profile_keeps_every_level(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = open_photo(save(scene(), tmp_path / "photo.png", icc_profile=profile))
    assert (levels(photo) == levels(scene())).all()


@pytest.mark.parametrize("profile", [b"no profile", cmyk_that_is_all_grey()])
def test_a_damaged_or_foreign_profile_is_ignored(tmp_path, profile):
    photo = open_photo(save(scene(), tmp_path / "photo.png", icc_profile=profile))
    assert (levels(photo) == levels(scene())).all()


def test_a_cmyk_profile_is_applied(tmp_path):
    inks = Image.new("CMYK", (40, 40), (0, 0, 0, 0))
    inks.paste((255, 0, 0, 0), (20, 0, 40, 40))
    plain = open_photo(save(inks, tmp_path / "plain.tif"))
    assert plain.getpixel((30, 5)) == (0, 255, 255)
    photo = open_photo(save(inks, tmp_path / "printed.tif", icc_profile=cmyk_that_is_all_grey()))
    white, black = (photo.getpixel(at) for at in ((5, 5), (30, 5)))
    assert isinstance(white, tuple) and min(white) >= 250
    assert isinstance(black, tuple) and max(black) <= 5  # all inks are black to this printer


def test_grey_with_a_profile_becomes_rgb(tmp_path):
    profile = display_p3_linear().replace(b"RGB XYZ ", b"GRAYXYZ ").replace(b"rTRC", b"kTRC")
    photo = open_photo(save(scene().convert("L"), tmp_path / "photo.png", icc_profile=profile))
    linear = levels(scene().convert("L")) / 255
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(levels(photo) - curved[..., None] * 255).max() <= 4


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 4e6])
def test_float_images_have_the_right_brightness(tmp_path, white):
    ramp = np.linspace(0, white, 40 * 40).reshape(40, 40).astype(np.float32)
    photo = levels(open_photo(save(Image.fromarray(ramp), tmp_path / "photo.tif")))
    assert np.abs(photo - (ramp / white * 255)[..., None]).max() <= 1


def test_a_float_image_with_nan_is_read(tmp_path):
    ramp = np.linspace(0, 1, 40 * 40).reshape(40, 40).astype(np.float32)
    ramp[3, 3], ramp[3, 4] = np.nan, np.inf
    photo = levels(open_photo(save(Image.fromarray(ramp), tmp_path / "photo.tif")))
    assert photo[39, 39].tolist() == [255] * 3 and photo[3, 3].tolist() == [0] * 3


@pytest.mark.parametrize("white", [255, 65535, 2**31 - 1])
def test_integer_images_have_the_right_brightness(tmp_path, white):
    ramp = np.linspace(0, white, 40 * 40).reshape(40, 40).astype(np.int32)
    photo = levels(open_photo(save(Image.fromarray(ramp), tmp_path / "photo.tif")))
    assert np.abs(photo - (ramp / white * 255)[..., None]).max() <= 1


def test_sixteen_bit_colour_is_scaled_and_not_clipped(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = (levels(scene()) * 257).astype(">u2").reshape(HEIGHT, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    file = tmp_path / "photo.png"
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )  # fmt: skip
    assert np.abs(levels(open_photo(file)) - levels(scene())).max() <= 1


def test_lab_pictures_become_rgb(tmp_path):
    lab = Image.new("LAB", (40, 40), (0, 128, 128))
    lab.paste((255, 128, 128), (20, 0, 40, 40))  # L, and a and b around 128
    photo = levels(open_photo(save(lab, tmp_path / "photo.tif")))
    assert photo[5, 5].max() <= 2 and photo[5, 30].min() >= 253


def test_phone_photos_are_read_upright_with_their_colours(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn a quarter clockwise to stand upright.
    lying = scene().rotate(90, expand=True)
    for suffix in (".heic", ".HEIF"):
        file = save(
            lying, tmp_path / f"photo{suffix}", format="HEIF", quality=100, exif=exif.tobytes()
        )
        photo = open_photo(file)
        assert photo.size == (WIDTH, HEIGHT)
        assert np.abs(levels(photo) - levels(scene())).max() <= 2 * JPEG_LEVELS
    assert len(list_photos(tmp_path)) == 2
    whole = (tmp_path / "photo.heic").read_bytes()
    for kept in (0, 0.3, 0.9):
        (tmp_path / "cut.heic").write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(StudioError, match=r"cut\.heic cannot be read"):
            open_photo(tmp_path / "cut.heic")
    flat = Image.new("RGB", (64, 64), (120, 90, 60))
    file = tmp_path / "wide.heic"
    save(flat, file, format="HEIF", quality=100, icc_profile=display_p3_linear())
    expected = srgb_of_linear_p3(np.array([120, 90, 60]))
    assert np.abs(levels(open_photo(file))[20, 20] - expected).max() <= 6


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_the_first_frame_of_an_animation_is_used(tmp_path, suffix):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
    file = tmp_path / f"moving{suffix}"
    frames[0].save(file, save_all=True, append_images=frames[1:], **options)
    photo = decode_photo(file)
    assert photo.is_animated
    assert photo.image.getpixel((5, 5)) == (255, 0, 0)


def test_a_phones_second_image_is_not_an_animation(tmp_path):
    buffer = io.BytesIO()
    scene().save(buffer, format="MPO", save_all=True, append_images=[scene().resize((48, 36))])
    file = tmp_path / "photo.jpg"
    file.write_bytes(buffer.getvalue())
    with Image.open(file) as image:
        assert isinstance(image, MpoImageFile)
        assert image.format == "MPO" and image.n_frames == 2
    assert not decode_photo(file).is_animated
