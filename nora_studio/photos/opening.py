"""Opening image files within a limit on pixels; all images are opened through this module."""

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
    """Open an image for the length of a block, without decoding its pixels yet.

    Args:
        formats: Pillow's names of the formats to try. None: all.

    Raises:
        StudioError: the image has more than `MAXIMUM_PIXELS`.
        OSError, ValueError, SyntaxError, RuntimeError: Pillow's errors for a file that is not an
            image.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns above 89 megapixels; the limit here is checked before decoding.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # A photo whose EXIF is damaged is read as if it had none.
            warnings.filterwarnings("ignore", ".*orrupt EXIF data", module="PIL.TiffImagePlugin")
            with Image.open(file, formats=formats) as image:
                if image.width * image.height > MAXIMUM_PIXELS:
                    raise _too_large(file, f"{image.width}x{image.height} pixels")
                yield image
    except Image.DecompressionBombError as error:
        # Pillow refuses more than 179 megapixels; its message has the number.
        number = re.search(r"\d+", str(error))
        much = f"{int(number[0]) // 1_000_000} megapixels" if number else "far too many pixels"
        raise _too_large(file, much) from error


def _too_large(file: Path, much: str) -> StudioError:
    return StudioError(
        f"{file} has {much}; the limit is {MAXIMUM_PIXELS // 1_000_000} megapixels. Scale it down."
    )
