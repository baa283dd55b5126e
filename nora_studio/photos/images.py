"""Listing a folder's photos, and decoding photos of every format, upright and in sRGB."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from nora_studio.errors import StudioError
from nora_studio.photos.colours import to_srgb
from nora_studio.photos.opening import open_image
from nora_studio.photos.pixel_format import sample_format_of

HEIF_SUFFIXES = (".heic", ".heif")
PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif",
    *HEIF_SUFFIXES,
)  # fmt: skip
CAPTION_SUFFIXES = (".txt", ".caption")
"""In order of precedence."""
VIDEO_SUFFIXES = (".mov", ".mp4", ".m4v")
# Files that cameras, phones, shells, photo programs and other trainers put next to photos. They
# are ignored without an error.
SIDECAR_SUFFIXES = (
    ".aae", ".thm", ".xmp", ".pp3", ".dop", ".json", ".jsonl", ".toml", ".yaml", ".md", ".db",
    ".ini", ".npz", ".npy", *VIDEO_SUFFIXES, *CAPTION_SUFFIXES,
)  # fmt: skip
MASK_SUFFIX = ".mask.png"
MINIMUM_SIDE = 32
MOST_NAMED = 20
"""Most files that a message lists."""


@dataclass(frozen=True)
class DecodedPhoto:
    """A decoded photo."""

    path: Path
    image: Image.Image
    """Upright, in sRGB, on white where it is transparent."""
    alpha: Image.Image | None
    """The alpha channel, of the same size; None if the photo is opaque."""
    is_animated: bool
    """Whether the file has several frames, of which only the first is used."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.height, self.image.width


def list_photos(folder: Path, flag: str = "--instance-dir") -> list[Path]:
    """Return the photos of a folder by name, without masks ("3.mask.png").

    Args:
        flag: The option or argument that names the folder, for the message.

    Raises:
        StudioError: the folder does not exist, has no photos, or has files of unknown kinds.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise StudioError(f"{flag}: expected a folder of photos; {folder} {state}.")
    photos, unknown = [], []
    for file in sorted(folder.iterdir()):
        suffix = file.suffix.lower()
        if file.is_dir() or file.name.startswith(".") or suffix in SIDECAR_SUFFIXES:
            continue
        if file.name.lower().endswith(MASK_SUFFIX):
            continue
        _check_is_file(file, flag)
        (photos if suffix in PHOTO_SUFFIXES else unknown).append(file)
    if unknown:
        raise StudioError(f"{flag}: {_unknown_files_message(folder, unknown)}")
    if not photos:
        raise StudioError(f"{flag}: {_no_photos_message(folder)}")
    return photos


def _check_is_file(file: Path, flag: str) -> None:
    """Refuse a pipe, a device or a socket: opening one may block forever."""
    if file.exists() and not file.is_file():
        raise StudioError(f"{flag}: {file} is a pipe, device or socket. Move it out of the folder.")


def is_photo_name(name: str) -> bool:
    """Return whether a file of this name is read as a photo, by its suffix."""
    lower = name.lower()
    return lower.endswith(PHOTO_SUFFIXES) and not lower.endswith(MASK_SUFFIX) and lower[0] != "."


def _unknown_files_message(folder: Path, files: Sequence[Path]) -> str:
    """Return the message about files of unknown kinds."""
    kinds = f"expected {', '.join(PHOTO_SUFFIXES)}"
    if len(files) == 1:
        suffix = files[0].suffix.lower() or "no suffix"
        what = f"{files[0]} is of an unknown kind ({suffix})"
        return f"{what}; {kinds}. Convert it or move it out of the folder."
    names = ", ".join(file.name for file in files[:MOST_NAMED])
    rest = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
    what = f"{len(files)} files in {folder} are of unknown kinds ({names}{rest})"
    return f"{what}; {kinds}. Convert them or move them out of the folder."


def _no_photos_message(folder: Path) -> str:
    """Return the message about a folder without photos, with its subfolders that have some."""
    inner = {}
    for place in sorted(folder.iterdir()):
        if place.is_dir() and not place.name.startswith("."):
            count = sum(is_photo_name(file.name) for file in place.iterdir())
            inner |= {place: count} if count else {}
    if not inner:
        return f"no photos in {folder}; expected at least one of {', '.join(PHOTO_SUFFIXES)}."
    found = ", ".join(f"{place} ({n})" for place, n in list(inner.items())[:MOST_NAMED])
    if len(inner) == 1:
        return f"no photos in {folder} itself, but in its folder {found}. Name that folder."
    return f"no photos in {folder} itself, but in its folders {found}. Name one of these folders."


def open_photo(file: Path) -> Image.Image:
    """Decode a photo upright and in sRGB, on white where it is transparent.

    Raises:
        StudioError: the file is not an image, is truncated, or is too large or too small.
    """
    return decode_photo(file).image


def decode_photo(file: Path) -> DecodedPhoto:
    """Decode a photo as `open_photo` does, with its alpha channel and whether it is animated.

    Raises:
        StudioError: the file is not an image, is truncated, or is too large or too small.
    """
    if file.suffix.lower() in HEIF_SUFFIXES:
        _register_heif()
    try:
        with open_image(file) as image:
            # Phones write several images of one moment as MPO, which is not an animation.
            is_animated = getattr(image, "is_animated", False) and image.format != "MPO"
            pixel_format = sample_format_of(image)
            upright = ImageOps.exif_transpose(image)
            upright.load()
        colours, alpha = to_srgb(upright, pixel_format)
    except StudioError:
        raise
    except (
        UnidentifiedImageError,
        OSError,
        EOFError,
        SyntaxError,  # Pillow's error for a damaged PNG,
        RuntimeError,  # and for a damaged AVIF.
        ValueError,
    ) as error:
        raise StudioError(
            f"{file} cannot be read as an image: {error}. Replace or remove it."
        ) from error
    if min(colours.size) < MINIMUM_SIDE:
        raise StudioError(
            f"{file} is {colours.width}x{colours.height}; the shorter side must be at least "
            f"{MINIMUM_SIDE} pixels. Use a larger copy, or remove it."
        )
    return DecodedPhoto(file, colours, alpha, is_animated)


def _register_heif() -> None:
    # Imported here: the decoder is large, and only phones' photos need it.
    from pillow_heif import register_heif_opener

    register_heif_opener()
