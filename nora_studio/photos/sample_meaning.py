"""What a file's numbers mean where Pillow's decoder leaves it open: range, sign, transparent key.

Pillow 12.3 hands on the transparent colour of a PNG as it stands in the file, but scales grey of 2
and 4 bits, cuts colours of 16 bits to 8, and knows no alpha beside 16-bit grey. Of a TIFF, it does
not turn deep grey round whose white is 0, scales 12 bits by nothing, and reads 32 bits as signed.
Sources: PNG (W3C, third edition), 11.3.1.1; TIFF 6.0, PhotometricInterpretation and SampleFormat.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_GREY_STEP = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey of few bits by; the transparent key stays as it was."""


@dataclass(frozen=True)
class SampleMeaning:
    """How the decoded numbers of one file are to be read."""

    white: float | None = None
    """Number that stands for white in deep grey; None: to be told by the numbers."""
    is_inverted: bool = False
    """Whether 0 is white."""
    is_unsigned: bool = False
    """Whether 32-bit numbers below 0 are very large ones."""
    key: tuple[int, ...] | None = None
    """The one colour that is transparent, a number for each channel."""
    low_bytes: Image.Image | None = None
    """Lower 8 bits of 16-bit RGB, upright, where a key needs them: Pillow keeps the upper ones."""
    is_alpha_optional: bool = False
    """Whether an alpha of 0 all over says that there is none."""


def meaning_of(image: Image.Image) -> SampleMeaning:
    """Look it up in a picture that is open and not unpacked yet."""
    if image.format == "PNG":
        return _of_png(image)
    if image.format == "TIFF":
        return _of_tiff(image)
    # Many programs leave the fourth byte of a BMP's pixels empty, and browsers show it opaque.
    return SampleMeaning(is_alpha_optional=image.format == "BMP")


def _of_png(image: Image.Image) -> SampleMeaning:
    key, raw = image.info.get("transparency"), _raw_mode(image)
    if isinstance(key, int) and raw in _GREY_STEP:
        return SampleMeaning(key=(key * _GREY_STEP[raw],))
    if isinstance(key, int) and image.mode.startswith("I;16"):
        return SampleMeaning(white=65535.0, key=(key,))
    if isinstance(key, tuple) and raw == "RGB;16B":
        with Image.open(image.filename) as again:  # pyright: ignore[reportAttributeAccessIssue]
            # Read as if the bytes of each number were the other way round: the lower ones stay.
            again.tile = [tile._replace(args="RGB;16L") for tile in again.tile]
            return SampleMeaning(key=key, low_bytes=ImageOps.exif_transpose(again))
    return SampleMeaning()


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for how the numbers stand in the file."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    return args if isinstance(args, str) else ""


def _of_tiff(image: Image.Image) -> SampleMeaning:
    tags = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    bits = tags.get(_BITS, (1,))[0]
    is_unsigned = tags.get(_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED
    if image.mode.startswith("I;16"):
        # Grey of 8 bits and fewer Pillow turns round itself.
        is_inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return SampleMeaning(white=float(2**bits - 1), is_inverted=is_inverted)
    if image.mode == "F":
        return SampleMeaning(is_inverted=tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    return SampleMeaning(is_unsigned=is_unsigned and bits == 32)


def keyed_alpha(image: Image.Image, meaning: SampleMeaning) -> Image.Image:
    """0 where a decoded picture shows the transparent colour, 255 elsewhere; mode L.

    Args:
        meaning: Of the same picture, with a key.
    """
    values = np.asarray(image).astype(np.int64)
    values = values if values.ndim == 3 else values[..., None]
    if meaning.low_bytes is not None:
        values = values * 256 + np.asarray(meaning.low_bytes.convert("RGB"))
    is_key = (values == np.array(meaning.key)).all(axis=-1)
    return Image.fromarray(np.where(is_key, 0, 255).astype(np.uint8))
