"""Options of the photos: captions, crops, mirroring, masks and the cache."""

from dataclasses import dataclass
from typing import Literal

from nora_studio.errors import StudioError
from nora_studio.options.groups.checks import without_effect

DEFAULT_CROPS = 8
DEFAULT_MASK_FLOOR = 0.1


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """Photos, captions and masks."""

    captions: bool = True
    """Use a photo's own caption as its prompt (3.txt next to 3.jpg, or metadata.jsonl). What a
    caption names besides the subject is not learned as the subject."""
    caption_dropout: float = 0.0
    """Probability that a photo is trained with the empty prompt instead of its own, 0 to 1."""
    resolution: int | None = None
    """Side of the training images in pixels, a multiple of 8. None: the model's own."""
    buckets: bool | None = None
    """Keep each photo's aspect ratio: images of the resolution's area in a few shapes instead of
    squares. None: if squares would cut off more than a tenth, on models of 512 px and more."""
    crop: Literal["center", "random"] = "center"
    """Crop each photo at its centre, or at random places and zooms (up to 1.2)."""
    crops: int | None = None
    """Number of random crops of each photo to encode. None: 8."""
    flip: float = 0.0
    """Probability that a photo is mirrored, 0 to 1. Leave it at 0 if the subject has text or two
    different sides."""
    masks: Literal["files", "alpha", "none"] = "files"
    """Masks of the subject, by which the loss is weighted: 3.mask.png next to 3.jpg (white is the
    subject), or the photo's own transparency."""
    mask_floor: float | None = None
    """Weight of a mask's black pixels in the loss, 0 to 1; that of white pixels is 1. None: 0.1."""
    cache: bool = True
    """Cache encoded photos, prompts and NoRA's outer factors on disk for the next run, in
    NORA_STUDIO_CACHE or the user's cache folder."""


def check_photo_options(options: PhotoOptions) -> None:
    """Refuse values out of range, and options without effect.

    Raises:
        StudioError: an option is refused.
    """
    for name in ("caption_dropout", "flip", "mask_floor"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise StudioError(f"--{name.replace('_', '-')}: expected 0 to 1; got {value!r}.")
    size = options.resolution
    if size is not None and (size < 64 or size % 8):
        raise StudioError(f"--resolution: expected a multiple of 8, at least 64; got {size!r}.")
    if options.crops is not None:
        if options.crop != "random":
            raise without_effect("crops", "--crop random")
        if options.crops < 2:
            raise StudioError(f"--crops: expected 2 or more; got {options.crops!r}.")
    if options.mask_floor is not None and options.masks == "none":
        raise without_effect("mask_floor", "--masks", "files")
