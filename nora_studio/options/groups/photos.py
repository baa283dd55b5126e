"""The trainer's options that are about photos: framing, mirror, masks, captions, caches."""

from dataclasses import dataclass
from typing import Literal

from nora_studio.errors import StudioError

DEFAULT_CROPS = 8
DEFAULT_MASK_FLOOR = 0.1


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """How a folder of photos becomes training pictures."""

    captions: bool = True
    """A photo with a prompt of its own (3.txt beside 3.jpg, or metadata.jsonl) learns that one.
    Words for what else is in the picture keep it from being learned as the subject."""
    caption_dropout: float = 0.0
    """Share of pictures that are learned without their words, as SDXL's empty prompt, 0 to 1."""
    resolution: int | None = None
    """Side of the training pictures in pixels, a multiple of 8. None: the model's own."""
    buckets: bool | None = None
    """Keep each photo's aspect: pictures of the resolution's area in a few shapes instead of
    squares. None: where squares would cut off more than a tenth, on models of 512 px and more."""
    crop: Literal["center", "random"] = "center"
    """Cut each picture from the photo's middle, or from a place and at a zoom (up to 1.2) drawn
    afresh every time."""
    crops: int | None = None
    """With random crops: how many different ones of each photo are encoded to draw from. None:
    8."""
    flip: float = 0.0
    """Chance that a picture is mirrored, 0 to 1. Leave it 0 if the subject has text or two
    different sides."""
    masks: Literal["files", "alpha", "none"] = "files"
    """What says where the subject is, so that the loss looks there: 3.mask.png beside 3.jpg (white
    is the subject), or the photo's own transparency."""
    mask_floor: float | None = None
    """Weight of what a mask leaves black, 0 to 1, where white is 1. None: 0.1."""
    cache: bool = True
    """Keep encoded photos, prompts and NoRA's outer factors on disk for the next run, in
    NORA_STUDIO_CACHE or the user's cache folder."""


def check_photo_options(options: PhotoOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such.
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
            raise StudioError("--crops: a setting of --crop random; got it with --crop center.")
        if options.crops < 2:
            raise StudioError(f"--crops: expected 2 or more; got {options.crops!r}.")
    if options.mask_floor is not None and options.masks == "none":
        raise StudioError("--mask-floor: a setting of masks; got it with --masks none.")
