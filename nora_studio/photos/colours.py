"""Conversion of images of every mode and colour space to 8-bit sRGB."""

import io

import numpy as np
from PIL import Image, ImageCms

from nora_studio.photos.pixel_format import PixelFormat, keyed_alpha

TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I", "F")  # and every "I;16..."
AS_DECODED = PixelFormat()


def to_srgb(
    image: Image.Image, pixel_format: PixelFormat = AS_DECODED
) -> tuple[Image.Image, Image.Image | None]:
    """Return a decoded image in 8-bit sRGB on white, and its alpha channel if it is transparent.

    Colours are converted by the embedded ICC profile. Without a readable one, they are taken as
    sRGB (CMYK is converted by Pillow's formula).

    Args:
        pixel_format: How to read the file's numbers, where Pillow does not say.

    Raises:
        ValueError: the mode cannot be converted to RGB.
    """
    profile = _read_profile(image.info.get("icc_profile"))
    alpha = None
    if pixel_format.key is not None:
        alpha = keyed_alpha(image, pixel_format)
    elif image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    extrema = None if alpha is None else alpha.getextrema()
    if extrema == (255, 255) or (extrema == (0, 0) and pixel_format.is_alpha_optional):
        alpha = None
    if image.mode.startswith("I;16") or image.mode in DEEP_MODES:
        image = _deep_grey(image, pixel_format, profile)
    else:
        image = _by_profile(image.convert("RGB") if image.mode in ("P", "1") else image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image, alpha


def _deep_grey(
    image: Image.Image, pixel_format: PixelFormat, profile: ImageCms.ImageCmsProfile | None
) -> Image.Image:
    """Convert grey of more than 8 bits to 8-bit RGB, scaled from its range.

    Pillow itself clips such an image at 255: 16 bits become nearly white, and the 0 to 1 of a float
    TIFF nearly black.
    """
    values = np.asarray(image)
    if pixel_format.is_unsigned and values.dtype == np.int32:
        values = values.view(np.uint32)
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    highest = values.max(initial=0.0)
    if pixel_format.white is not None:
        white = pixel_format.white
    elif image.mode.startswith("I;16"):
        white = 65535.0
    elif image.mode == "F" and highest <= 1.0:
        white = 1.0
    else:
        # The smallest usual range that holds all values; beyond those, the image's own.
        white = next((top for top in (255.0, 65535.0) if highest <= top), highest)
    levels = values / white * 255
    if pixel_format.is_inverted:
        levels = 255 - levels
    # Profiles convert 8 bits only: the profile's curve at 256 levels, linear between them.
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    curve = np.asarray(_by_profile(ramp, profile), dtype=np.float64)[0]  # (256, 3)
    channels = [np.interp(levels, np.arange(256), curve[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _by_profile(image: Image.Image, source: ImageCms.ImageCmsProfile | None) -> Image.Image:
    """Convert to RGB from the embedded profile's colours, or the mode's own without a profile."""
    if source is None and image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    if source is None or _is_srgb(source):
        return image.convert("RGB")
    if image.mode == "RGB" and _is_grey(source):
        # Grey with transparency or a palette is RGB by now; the profile has one channel.
        red, green, blue = image.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            image = red
    try:
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImageCms.PyCMSError:  # The profile is for other channels than the image's.
        return image.convert("RGB")
    assert converted is not None
    return converted


def _read_profile(content: bytes | None) -> ImageCms.ImageCmsProfile | None:
    if not content:
        return None
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(content))
    except (OSError, ImageCms.PyCMSError):
        return None


def _is_grey(profile: ImageCms.ImageCmsProfile) -> bool:
    space = profile.profile.xcolor_space  # pyright: ignore[reportAttributeAccessIssue]
    return space.strip() == "GRAY"


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Return whether a profile is a version of sRGB, from which converting only adds rounding."""
    try:
        return "srgb" in ImageCms.getProfileDescription(profile).lower()
    except ImageCms.PyCMSError:
        return False
