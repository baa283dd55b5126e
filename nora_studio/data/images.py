"""A folder of photos -> square training pictures with SDXL's size and crop conditioning."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nora_studio.errors import StudioError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif")
# Files that cameras, shells and captioners leave beside photos: no photos, and no mistake either.
SIDECAR_SUFFIXES = (".txt", ".json", ".jsonl", ".toml", ".md", ".xmp", ".db", ".ini")
MINIMUM_SIDE = 32
MAXIMUM_PIXELS = 120_000_000


@dataclass(frozen=True)
class Photo:
    """One training picture."""

    path: Path
    pixels: Tensor
    """(3, resolution, resolution), float32 in [-1, 1]."""
    original_size: tuple[int, int]
    """(height, width) in pixels before resizing, after EXIF rotation."""
    crop_top_left: tuple[int, int]
    """(top, left) of the crop in the resized picture, in pixels."""

    @property
    def time_ids(self) -> list[float]:
        """SDXL's micro-conditioning (arXiv 2307.01952, 2.2): original size, crop, target size."""
        target = self.pixels.shape[-2:]
        return [float(v) for v in (*self.original_size, *self.crop_top_left, *target)]


def list_photos(folder: Path) -> list[Path]:
    """The photos of a folder by name.

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
        if suffix not in PHOTO_SUFFIXES:
            raise StudioError(
                f"--instance-dir: {file} is of an unknown kind ({suffix or 'no suffix'}); expected "
                f"{', '.join(PHOTO_SUFFIXES)}. Convert it or move it out of the folder."
            )
        photos.append(file)
    if not photos:
        raise StudioError(
            f"--instance-dir: no photos in {folder}; expected at least one of "
            f"{', '.join(PHOTO_SUFFIXES)}."
        )
    return photos


def open_photo(file: Path) -> Image.Image:
    """Decode a photo upright and in RGB, transparency laid on white.

    Raises:
        StudioError: it is no picture, is cut short, or is far too large or too small.
    """
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
                upright = ImageOps.exif_transpose(image)
                upright.load()
    except StudioError:
        raise
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,  # Pillow's word for a broken PNG
        RuntimeError,  # and for a broken AVIF
        ValueError,
    ) as error:
        raise StudioError(
            f"{file} cannot be read as a picture: {error}. Replace or remove it."
        ) from error
    if min(upright.size) < MINIMUM_SIDE:
        raise StudioError(
            f"{file} is {upright.width}x{upright.height}; the shorter side must be at least "
            f"{MINIMUM_SIDE} pixels. Remove it."
        )
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        ground = Image.new("RGBA", upright.size, "white")
        return Image.alpha_composite(ground, upright).convert("RGB")
    if upright.mode.startswith("I;16") or upright.mode == "I":
        # Pillow clips 16-bit greyscale at 255 when it converts, so scale first.
        return Image.fromarray((np.asarray(upright) / 257.0).clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    return upright.convert("RGB")


def prepare_photo(file: Path, resolution: int) -> Photo:
    """Scale a photo's shorter side to `resolution` pixels and cut the centre square."""
    image = open_photo(file)
    original = (image.height, image.width)
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    top, left = (height - resolution) // 2, (width - resolution) // 2
    image = image.crop((left, top, left + resolution, top + resolution))
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1.0
    return Photo(file, pixels.contiguous(), original, (top, left))


def load_photos(folder: Path, resolution: int) -> list[Photo]:
    """Every photo of a folder, ready for the VAE. Reads all before anything else is started."""
    return [prepare_photo(file, resolution) for file in list_photos(folder)]
