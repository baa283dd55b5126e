"""Open a picture file within the limit on pixels: the one door to Pillow for all pictures."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from nora_studio.errors import StudioError

MAXIMUM_PIXELS = 120_000_000


@contextmanager
def open_image(file: Path, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """Open a picture for the length of a block; its pixels are not unpacked yet.

    Args:
        formats: Pillow's names of the formats that may be tried; None: all.

    Raises:
        StudioError: it has more pixels than are read.
        OSError, ValueError, SyntaxError, RuntimeError: Pillow's own, where it is no picture.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 megapixels on; ours is the limit, checked before unpacking.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # A photo whose EXIF is damaged is read as if it had none.
            warnings.filterwarnings("ignore", ".*orrupt EXIF data", module="PIL.TiffImagePlugin")
            with Image.open(file, formats=formats) as image:
                if image.width * image.height > MAXIMUM_PIXELS:
                    raise _too_large(file, f"{image.width}x{image.height} pixels")
                yield image
    except Image.DecompressionBombError as error:
        # Pillow refuses from 179 megapixels on, and says how many there are.
        number = re.search(r"\d+", str(error))
        much = f"{int(number[0]) // 1_000_000} megapixels" if number else "far too many pixels"
        raise _too_large(file, much) from error


def _too_large(file: Path, much: str) -> StudioError:
    return StudioError(
        f"{file} has {much}; at most {MAXIMUM_PIXELS // 1_000_000} megapixels are read. Scale it "
        "down."
    )
