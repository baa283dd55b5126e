"""A folder of photos, and every kind of them decoded upright into sRGB."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from nora_studio.data.colours import to_srgb
from nora_studio.errors import StudioError

HEIF_SUFFIXES = (".heic", ".heif")
PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".gif", *HEIF_SUFFIXES
)  # fmt: skip
# Files that cameras, shells and captioners leave beside photos: no photos, and no mistake either.
SIDECAR_SUFFIXES = (".txt", ".json", ".jsonl", ".toml", ".md", ".xmp", ".db", ".ini")
MASK_SUFFIX = ".mask.png"
MINIMUM_SIDE = 32
MAXIMUM_PIXELS = 120_000_000


@dataclass(frozen=True)
class DecodedPhoto:
    """A photo as it is meant to be seen."""

    path: Path
    image: Image.Image
    """Upright, sRGB, transparency laid on white."""
    alpha: Image.Image | None
    """Its transparency as one channel of the same size, where it has any."""
    is_animated: bool
    """Whether the file holds more frames than the one that is used, the first."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.height, self.image.width


def list_photos(folder: Path) -> list[Path]:
    """The photos of a folder by name; masks ("3.mask.png") are none.

    Raises:
        StudioError: no such folder, no photos in it, or a file of an unknown kind among them.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise StudioError(f"--instance-dir: expected a folder of photos; {folder} {state}.")
    photos = []
    for file in sorted(folder.iterdir()):
        suffix = file.suffix.lower()
        if file.is_dir() or file.name.startswith(".") or suffix in SIDECAR_SUFFIXES:
            continue
        if file.name.lower().endswith(MASK_SUFFIX):
            continue
        if suffix not in PHOTO_SUFFIXES:
            raise StudioError(
                f"--instance-dir: {file} is of an unknown kind ({suffix or 'no suffix'}); expected "
                f"{', '.join(PHOTO_SUFFIXES)}. Convert it or move it out of the folder."
            )
        _check_is_file(file)
        photos.append(file)
    if not photos:
        raise StudioError(
            f"--instance-dir: no photos in {folder}; expected at least one of "
            f"{', '.join(PHOTO_SUFFIXES)}."
        )
    return photos


def _check_is_file(file: Path) -> None:
    """Refuse a pipe, a device or a socket: whoever opens one may wait for ever."""
    if file.exists() and not file.is_file():
        raise StudioError(
            f"--instance-dir: {file} is neither a file nor a folder. Move it out of the folder."
        )


def open_photo(file: Path) -> Image.Image:
    """Decode a photo upright and in sRGB, transparency laid on white.

    Raises:
        StudioError: it is no picture, is cut short, or is far too large or too small.
    """
    return decode_photo(file).image


def decode_photo(file: Path) -> DecodedPhoto:
    """As `open_photo`, with what else the file says.

    Raises:
        StudioError: it is no picture, is cut short, or is far too large or too small.
    """
    if file.suffix.lower() in HEIF_SUFFIXES:
        _register_heif()
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on; ours is the limit, checked before unpacking.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.width * image.height > MAXIMUM_PIXELS:
                    raise StudioError(
                        f"{file} has {image.width}x{image.height} pixels; at most "
                        f"{MAXIMUM_PIXELS // 1_000_000} megapixels are read. Scale it down."
                    )
                # Telephones write several pictures of one moment as MPO: no animation.
                is_animated = getattr(image, "is_animated", False) and image.format != "MPO"
                upright = ImageOps.exif_transpose(image)
                upright.load()
            colours, alpha = to_srgb(upright)
    except StudioError:
        raise
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        EOFError,
        SyntaxError,  # Pillow's word for a broken PNG
        RuntimeError,  # and for a broken AVIF
        ValueError,
    ) as error:
        raise StudioError(
            f"{file} cannot be read as a picture: {error}. Replace or remove it."
        ) from error
    if min(colours.size) < MINIMUM_SIDE:
        raise StudioError(
            f"{file} is {colours.width}x{colours.height}; the shorter side must be at least "
            f"{MINIMUM_SIDE} pixels. Remove it."
        )
    return DecodedPhoto(file, colours, alpha, is_animated)


def _register_heif() -> None:
    # Here and not at the top: the decoder is large, and only telephones' photos need it.
    from pillow_heif import register_heif_opener

    register_heif_opener()
