"""How to read a file's numbers where Pillow does not say: range, sign, and transparent colour.

Pillow 12.3 returns the transparent colour of a PNG as it is in the file, but it scales grey of 2
and 4 bits, reduces colours of 16 bits to 8, and has no alpha with 16-bit grey. For a TIFF, it does
not invert deep grey whose white is 0, does not scale 12 bits, and reads 32 bits as signed.
Sources: PNG (W3C, third edition), 11.3.1.1; TIFF 6.0, PhotometricInterpretation and SampleFormat.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_GREY_STEP = {"L;2": 85, "L;4": 17}
"""Factors by which Pillow scales grey of few bits; it does not scale the transparent colour."""


@dataclass(frozen=True)
class PixelFormat:
    """How to read the decoded numbers of one file."""

    white: float | None = None
    """Value of white in deep grey. None: to be found from the numbers."""
    is_inverted: bool = False
    """Whether 0 is white."""
    is_unsigned: bool = False
    """Whether negative 32-bit numbers are large unsigned ones."""
    key: tuple[int, ...] | None = None
    """The transparent colour, one number per channel."""
    low_bytes: Image.Image | None = None
    """Lower 8 bits of 16-bit RGB, upright, if `key` needs them; Pillow keeps only the upper 8."""
    is_alpha_optional: bool = False
    """Whether an alpha channel that is 0 everywhere is to be ignored."""


def sample_format_of(image: Image.Image) -> PixelFormat:
    """Return the sample format of an open image whose pixels have not been decoded yet."""
    if image.format == "PNG":
        return _png_format(image)
    if image.format == "TIFF":
        return _tiff_format(image)
    # Many programs leave the fourth byte of a BMP's pixels 0, and browsers show it opaque.
    return PixelFormat(is_alpha_optional=image.format == "BMP")


def _png_format(image: Image.Image) -> PixelFormat:
    key, raw = image.info.get("transparency"), _raw_mode(image)
    if isinstance(key, int) and raw in _GREY_STEP:
        return PixelFormat(key=(key * _GREY_STEP[raw],))
    if isinstance(key, int) and image.mode.startswith("I;16"):
        return PixelFormat(white=65535.0, key=(key,))
    if isinstance(key, tuple) and raw == "RGB;16B":
        with Image.open(image.filename) as again:  # pyright: ignore[reportAttributeAccessIssue]
            # With the other byte order, Pillow keeps the lower byte of each number.
            again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
            return PixelFormat(key=key, low_bytes=ImageOps.exif_transpose(again))
    return PixelFormat()


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for how the numbers are stored in the file."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    return args if isinstance(args, str) else ""


def _tiff_format(image: Image.Image) -> PixelFormat:
    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    bits = tags.get(_BITS, (1,))[0]
    is_unsigned = tags.get(_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
    if image.mode.startswith("I;16"):
        # Pillow itself inverts grey of 8 bits and fewer.
        is_inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return PixelFormat(white=float(2**bits - 1), is_inverted=is_inverted)
    if image.mode == "F":
        return PixelFormat(is_inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    return PixelFormat(is_unsigned=is_unsigned and bits == 32)


def keyed_alpha(image: Image.Image, pixel_format: PixelFormat) -> Image.Image:
    """Return an alpha channel, mode L: 0 where an image has the transparent colour, else 255.

    Args:
        pixel_format: The image's pixel format, with a key.
    """
    values = np.asarray(image).astype(np.int64)
    values = values if values.ndim == 3 else values[..., None]
    if pixel_format.low_bytes is not None:
        values = values * 256 + np.asarray(pixel_format.low_bytes.convert("RGB"))
    is_key = (values == np.array(pixel_format.key)).all(axis=-1)
    return Image.fromarray(np.where(is_key, 0, 255).astype(np.uint8))
