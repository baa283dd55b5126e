"""Pictures whose sides and levels can be told apart."""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 36


JPEG_LEVELS = 12
"""How far JPEG may move a smooth picture, of 255."""


def scene(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture that tells all its sides apart: red grows rightwards, green downwards."""
    down, right = np.mgrid[0:height, 0:width]
    channels = [right * 255 // (width - 1), down * 255 // (height - 1), np.full_like(down, 60)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int64)


def save(image: Image.Image, file: Path, **options) -> Path:
    image.save(file, **options)
    return file
