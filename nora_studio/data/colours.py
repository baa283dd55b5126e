"""Pixels of every mode and colour space that cameras and editors write -> 8-bit sRGB."""

import io

import numpy as np
from PIL import Image, ImageCms

TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I", "F")  # and every "I;16..."


def to_srgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A decoded picture in 8-bit sRGB on white, and its alpha channel if it is transparent.

    An embedded ICC profile decides what the numbers mean; without one, or with one that cannot be
    read, they are taken as sRGB's own (CMYK by Pillow's plain formula).

    Raises:
        ValueError: the mode has no way to RGB.
    """
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if alpha.getextrema() == (255, 255):
            alpha = None
        image = image.convert("RGB")
    if image.mode.startswith("I;16") or image.mode in DEEP_MODES:
        return _deep_grey(image).convert("RGB"), None
    if image.mode in ("P", "1"):
        image = image.convert("RGB")
    image = _by_profile(image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image, alpha


def _deep_grey(image: Image.Image) -> Image.Image:
    """More than 8 bits of grey, scaled by the range they are written for.

    Pillow clips such a picture at 255 when it converts it: 16 bits become nearly white, and the
    0 to 1 of a float TIFF nearly black.
    """
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    highest = values.max(initial=0.0)
    if image.mode.startswith("I;16"):
        white = 65535.0
    elif image.mode == "F" and highest <= 1.0:
        white = 1.0
    else:
        # Smallest usual range that holds what is there; beyond them, the picture's own.
        white = next((top for top in (255.0, 65535.0) if highest <= top), highest)
    return Image.fromarray((values / white * 255).round().clip(0, 255).astype(np.uint8))


def _by_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert from the embedded profile's colours; from the mode's own where there is none."""
    source = _read_profile(profile)
    if source is None and image.mode == "LAB":
        source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    if source is None or _is_srgb(source):
        return image.convert("RGB")
    try:
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except ImageCms.PyCMSError:  # A profile for other channels than the picture's.
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


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether a profile is some print of sRGB: converting from it would only add rounding."""
    try:
        return "srgb" in ImageCms.getProfileDescription(profile).lower()
    except ImageCms.PyCMSError:
        return False
