"""Images of every mode, depth and kind of transparency are decoded exactly."""

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from support.picture_files import (
    GREY,
    GREY_ALPHA,
    PALETTE,
    RGB,
    RGB_ALPHA,
    bmp,
    icc_chunk,
    png,
    png_chunk,
    tiff,
)
from support.profiles import display_p3_linear
from support.scenes import levels

from nora_studio.photos.images import decode_photo

HEIGHT, WIDTH = 36, 40
DOWN, RIGHT = np.mgrid[0:HEIGHT, 0:WIDTH]
EXACT, ROUNDING = 0.01, 1.0
HALVES = 2.0
"""Levels: where 16 bits become 8 by cutting, and are then mixed with white."""
STEEP = 8.0
"""Where a profile's curve is steep, near black, between two of 256 levels."""
LOSSY = 24.0

Case = tuple[bytes, np.ndarray, float]
"""A file, what it shows (height, width, 3) in 0 to 255, and how far rounding may move that."""
linear_grey = display_p3_linear().replace(b"RGB XYZ ", b"GRAYXYZ ").replace(b"rTRC", b"kTRC")


def ramp(bits: int) -> np.ndarray:  # (height, width, 1)
    return (RIGHT * (2**bits - 1) // (WIDTH - 1))[..., None]


def colours(bits: int) -> np.ndarray:  # (height, width, 3)
    top = 2**bits - 1
    blue = np.full_like(RIGHT, top // 4)
    return np.stack([RIGHT * top // (WIDTH - 1), DOWN * top // (HEIGHT - 1), blue], axis=-1)


def fading(bits: int) -> np.ndarray:  # (height, width, 1): alpha
    return (DOWN * (2**bits - 1) // (HEIGHT - 1))[..., None]


def shown(samples: np.ndarray, bits: int, alpha: np.ndarray | float = 1.0) -> np.ndarray:
    """Numbers of so many bits in 0 to 255, laid on white; alpha is 0 to 1."""
    return np.broadcast_to((samples / (2**bits - 1) * alpha + 1 - alpha) * 255, (HEIGHT, WIDTH, 3))


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, 0 to 1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def png_grey_with_key(bits: int, place: int) -> Callable[[], Case]:
    def make() -> Case:
        samples = ramp(bits)
        key = int(samples[0, place, 0])
        chunk = png_chunk(b"tRNS", struct.pack(">H", key))
        return png(samples, bits, GREY, chunk), shown(samples, bits, 1.0 * (samples != key)), 1.0

    return make


def png_rgb_with_key(bits: int) -> Case:
    samples = colours(bits)
    samples[:4, :4] = samples[20, 20]
    samples[:4, 4] = samples[20, 20] + [0, 0, 1]  # Nearly the key: it must stay.
    is_key = (samples == samples[20, 20]).all(axis=-1, keepdims=True)
    chunk = png_chunk(b"tRNS", struct.pack(">HHH", *samples[20, 20].tolist()))
    return png(samples, bits, RGB, chunk), shown(samples, bits, 1.0 - is_key), ROUNDING


def png_alpha(bits: int, kind: int) -> Case:
    samples = ramp(bits) if kind == GREY_ALPHA else colours(bits)
    alpha = fading(bits)
    file = png(np.concatenate([samples, alpha], axis=-1), bits, kind)
    return file, shown(samples, bits, alpha / (2**bits - 1)), HALVES


def palette_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3))


def png_palette(bits: int) -> Case:
    table, samples = palette_of(2**bits), ramp(bits)
    alpha = np.full(2**bits, 255)
    alpha[: 2**bits // 2 + 1] = np.linspace(0, 200, 2**bits // 2 + 1)
    chunks = png_chunk(b"PLTE", table.astype(np.uint8).tobytes())
    chunks += png_chunk(b"tRNS", alpha[: 2**bits // 2 + 1].astype(np.uint8).tobytes())
    see = alpha[samples] / 255
    return png(samples, bits, PALETTE, chunks), shown(table[samples[..., 0]], 8, see), ROUNDING


def png_grey_with_profile(bits: int, kind: int, chunk: bytes = b"") -> Case:
    samples = ramp(bits)
    alpha = 1.0 * (samples != 0) if chunk else fading(bits) / (2**bits - 1)
    alpha = 1.0 if kind == GREY and not chunk else alpha
    stored = np.concatenate([samples, fading(bits)], axis=-1) if kind == GREY_ALPHA else samples
    expected = shown(srgb_curve(samples / (2**bits - 1)), 1, alpha)
    return png(stored, bits, kind, icc_chunk(linear_grey) + chunk), expected, STEEP


def tiff_grey(bits: int, white: int, order: str = "<", form: int = 1) -> Case:
    """Integers of full range; `white` is 1, or 0 where 0 is white."""
    samples = ramp(bits) if form < 3 else ramp(16) / 65535
    level = shown(samples, bits if form < 3 else 1)
    file = tiff(samples, white, bits, order=order, sample_format=form)
    return file, level if white else 255 - level, ROUNDING


def tiff_colours(bits: int, extra: int | None = None, order: str = "<") -> Case:
    samples = colours(bits)
    if extra is None:
        return tiff(samples, 2, bits, order=order), shown(samples, bits), ROUNDING
    alpha = fading(bits)
    see = alpha / (2**bits - 1) if extra else 1.0
    stored = samples * alpha // (2**bits - 1) if extra == 1 else samples
    file = tiff(np.concatenate([stored, alpha], axis=-1), 2, bits, order=order, extra=extra)
    return file, shown(samples, bits, see), HALVES + (extra == 1)


def tiff_inks(bits: int) -> Case:
    top = 2**bits - 1
    samples = np.concatenate([colours(bits), ramp(bits) // 2], axis=-1)
    expected = (1 - samples[..., :3] / top) * (1 - samples[..., 3:] / top) * 255
    return tiff(samples, 5, bits), expected, HALVES


def jpeg_inks(transform: int) -> Case:
    """Adobe's four channels, written inverted; with transform 2 the first three are YCbCr."""
    stored = np.concatenate([colours(8), 255 - ramp(8) // 2], axis=-1)
    # Pillow writes 255 minus what it is given, and says that nothing is transformed.
    stream = io.BytesIO()
    Image.fromarray((255 - stored).astype(np.uint8), "CMYK").save(
        stream, "JPEG", quality=100, subsampling=0
    )
    file = bytearray(stream.getvalue())
    place = file.index(b"Adobe") + 11
    assert file[place] == 0
    file[place] = transform
    inks = stored.astype(float)
    if transform == 2:  # JFIF's formula (ITU-T T.871)
        y, cb, cr = inks[..., 0], inks[..., 1] - 128, inks[..., 2] - 128
        red, green = y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr
        light = np.stack([red, green, y + 1.772 * cb], axis=-1).clip(0, 255)
        inks[..., :3] = 255 - light  # Adobe's note 5116: YCbCr of 255 minus each stored ink.
    # Inverted: 255 is no ink.
    return bytes(file), inks[..., :3] * inks[..., 3:] / 255, LOSSY


def bmp_palette(bits: int) -> Case:
    table, samples = palette_of(2**bits), ramp(bits)
    return bmp(samples, bits, table), shown(table[samples[..., 0]], 8), EXACT


def bmp_alpha(alpha: np.ndarray) -> Case:
    see = alpha / 255 if alpha.any() else 1.0  # All 0: written by programs that know no alpha.
    return bmp(np.concatenate([colours(8), alpha], axis=-1), 32), shown(colours(8), 8, see), 1.0


def by_pillow(kind: str, mode: str, tolerance: float, **options) -> Callable[[], Case]:
    """Of formats that nobody writes by hand: the source's own numbers are what is expected."""

    def make() -> Case:
        import pillow_heif

        pillow_heif.register_heif_opener()
        source = colours(8) if mode.startswith("RGB") else ramp(8)
        alpha = fading(8) if mode.endswith("A") else None
        stored = source if alpha is None else np.concatenate([source, alpha], axis=-1)
        stored = stored[..., 0] if stored.shape[-1] == 1 else stored
        stream = io.BytesIO()
        Image.fromarray(stored.astype(np.uint8), mode).save(stream, kind, **options)
        return stream.getvalue(), shown(source, 8, 1.0 if alpha is None else alpha / 255), tolerance

    return make


def gif(transparency: int | None) -> Case:
    table, samples = palette_of(16), ramp(4)
    image = Image.fromarray(samples[..., 0].astype(np.uint8), "P")
    image.putpalette(table.astype(np.uint8).tobytes())
    stream = io.BytesIO()
    image.save(stream, "GIF", optimize=False, **(
        {} if transparency is None else {"transparency": transparency}
    ))  # fmt: skip
    see = 1.0 if transparency is None else 1.0 * (samples != transparency)
    return stream.getvalue(), shown(table[samples[..., 0]], 8, see), EXACT


TRANSPARENT_BLACK = png_chunk(b"tRNS", b"\0\0")
CASES: dict[str, Callable[[], Case]] = {
    **{f"png grey {b}": lambda b=b: (png(ramp(b), b, GREY), shown(ramp(b), b), ROUNDING)
       for b in (1, 2, 4, 8, 16)},
    **{f"png grey {b} tRNS {where}": png_grey_with_key(b, place)
       for b in (1, 2, 4, 8, 16)
       for where, place in (("black", 0), ("middle", 20), ("white", WIDTH - 1))},
    **{f"png rgb {b}": lambda b=b: (png(colours(b), b, RGB), shown(colours(b), b), ROUNDING)
       for b in (8, 16)},
    **{f"png rgb {b} tRNS": lambda b=b: png_rgb_with_key(b) for b in (8, 16)},
    **{f"png alpha {b} type {k}": lambda b=b, k=k: png_alpha(b, k)
       for b in (8, 16) for k in (GREY_ALPHA, RGB_ALPHA)},
    **{f"png palette {b} tRNS": lambda b=b: png_palette(b) for b in (1, 2, 4, 8)},
    **{f"png grey {b} icc": lambda b=b: png_grey_with_profile(b, GREY) for b in (8, 16)},
    **{f"png grey {b} icc tRNS": lambda b=b: png_grey_with_profile(b, GREY, TRANSPARENT_BLACK)
       for b in (8, 16)},
    **{f"png grey alpha {b} icc": lambda b=b: png_grey_with_profile(b, GREY_ALPHA)
       for b in (8, 16)},
    **{f"tiff grey {b} white is {w}": lambda b=b, w=w: tiff_grey(b, w)
       for b in (1, 2, 4, 8, 16) for w in (0, 1)},
    "tiff grey 12": lambda: tiff_grey(12, 1),
    "tiff grey 16 big-endian": lambda: tiff_grey(16, 1, ">"),
    "tiff grey 32 unsigned": lambda: tiff_grey(32, 1),
    "tiff grey float": lambda: tiff_grey(32, 1, form=3),
    "tiff grey float white is 0": lambda: tiff_grey(32, 0, form=3),
    "tiff grey float white is 0, big-endian": lambda: tiff_grey(32, 0, ">", form=3),
    **{f"tiff rgb {b} extra {e} {o}": lambda b=b, e=e, o=o: tiff_colours(b, e, o)
       for b in (8, 16) for e in (None, 0, 1, 2) for o in "<>"},
    "tiff grey alpha 8": lambda: (
        tiff(np.concatenate([ramp(8), fading(8)], axis=-1), 1, 8, extra=2),
        shown(ramp(8), 8, fading(8) / 255), ROUNDING),
    **{f"tiff palette {b}": lambda b=b: (
        tiff(ramp(b), 3, b, palette=palette_of(2**b)),
        shown(palette_of(2**b)[ramp(b)[..., 0]], 8), EXACT) for b in (1, 2, 4, 8)},
    **{f"tiff cmyk {b}": lambda b=b: tiff_inks(b) for b in (8, 16)},
    **{f"jpeg adobe {t}": lambda t=t: jpeg_inks(t) for t in (0, 2)},
    **{f"bmp palette {b}": lambda b=b: bmp_palette(b) for b in (1, 4, 8)},
    "bmp 24": lambda: (bmp(colours(8), 24), shown(colours(8), 8), EXACT),
    "bmp 32": lambda: bmp_alpha(fading(8)),
    "bmp 32 without alpha": lambda: bmp_alpha(np.zeros((HEIGHT, WIDTH, 1), int)),
    "gif": lambda: gif(None),
    "gif transparent": lambda: gif(3),
    **{f"{kind} {mode}": by_pillow(kind, mode, tolerance, **options)
       for kind, mode, tolerance, options in (
           ("JPEG", "L", LOSSY, {"quality": 95}), ("JPEG", "RGB", LOSSY, {"quality": 95}),
           ("WEBP", "RGB", ROUNDING, {"lossless": True}),
           ("WEBP", "RGBA", ROUNDING, {"lossless": True, "exact": True}),
           ("AVIF", "RGB", LOSSY, {"quality": 95}), ("AVIF", "RGBA", LOSSY, {"quality": 95}),
           ("HEIF", "L", LOSSY, {"quality": 95}), ("HEIF", "RGB", LOSSY, {"quality": 95}),
           ("HEIF", "RGBA", LOSSY, {"quality": 95}), ("HEIF", "LA", LOSSY, {"quality": 95}),
       )},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_decoded_by_its_sample_format(tmp_path, name):
    content, expected, tolerance = CASES[name]()
    # The content decides, but for telephones' photos, whose decoder is loaded by name.
    file = tmp_path / ("photo.heic" if name.startswith("HEIF") else "photo.png")
    file.write_bytes(content)
    apart = np.abs(levels(decode_photo(file).image) - expected)
    assert apart.max() <= tolerance, (apart.max(), np.unravel_index(apart.argmax(), apart.shape))


@pytest.mark.parametrize("bits", [2, 16])
def test_a_transparent_grey_becomes_alpha_upright_with_the_image(tmp_path, bits):
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn a quarter clockwise to stand upright.
    content, expected, _ = png_grey_with_key(bits, 0)()
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    place = content.index(b"IDAT") - 4
    file = tmp_path / "photo.png"
    file.write_bytes(content[:place] + chunk + content[place:])
    photo = decode_photo(file)
    upright = np.rot90(expected, -1)
    assert photo.alpha is not None and photo.alpha.size == photo.image.size == (HEIGHT, WIDTH)
    assert np.abs(levels(photo.image) - upright).max() <= 1
    assert (levels(photo.alpha)[0] == 0).all() and (levels(photo.alpha)[-1] == 255).all()
