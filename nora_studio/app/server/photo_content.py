"""Checks of an uploaded photo's content, and the thumbnail that pages show."""

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from nora_studio.app.server.file_route import THUMBNAILS
from nora_studio.errors import StudioError
from nora_studio.photos.images import DecodedPhoto
from nora_studio.photos.opening import open_image
from nora_studio.runs.atomic import write_bytes

MAX_PHOTO_BYTES = 40 * 1000**2
MAX_PIXELS = 60_000_000
THUMBNAIL_SIDE = 320
"""Longer side in pixels."""
SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "HEIF": ".heic",
    "AVIF": ".avif",
    "TIFF": ".tif",
    "BMP": ".bmp",
    "GIF": ".gif",
}
"""Suffix by the format that Pillow finds in the file; no other decoder is ever run."""
OPENED = tuple(kind for kind in SUFFIXES if kind != "MPO")  # Pillow's JPEG decoder detects MPO.


def check_header(file: Path, shown: str) -> str:
    """Return the suffix for a file's format, which is read from its header before any pixel."""
    from pillow_heif import register_heif_opener  # A large import that only uploads need.

    register_heif_opener()
    try:
        with open_image(file, OPENED) as image:
            kind, pixels = image.format or "", image.width * image.height
    except StudioError:  # It exceeds the limit for any image, which is higher.
        kind, pixels = "", MAX_PIXELS + 1
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, RuntimeError):
        raise StudioError(
            f"{shown} cannot be read as a photo. Save it as JPEG or PNG, then add it again."
        ) from None  # The cause would name a path on the server.
    if pixels > MAX_PIXELS:
        raise StudioError(
            f"{shown} has more than {MAX_PIXELS // 1_000_000} megapixels, the limit. Scale it "
            "down, then add it again."
        )
    return SUFFIXES[kind]


def thumbnail_of(file: Path) -> Path:
    """Return the path of a photo's thumbnail."""
    return file.parent / THUMBNAILS / f"{file.stem}.webp"


def write_thumbnail(photo: DecodedPhoto, file: Path) -> None:
    """Write a photo's thumbnail without its metadata."""
    small = photo.image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    small.info.clear()
    content = io.BytesIO()
    small.save(content, "WEBP", quality=84)
    write_bytes(file, content.getvalue())
