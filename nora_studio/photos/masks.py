"""Masks: where the subject is in a photo, and how each part of it is weighted in the loss."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from nora_studio.errors import StudioError
from nora_studio.photos.companions import CompanionFiles, find_mask_files, mask_base
from nora_studio.photos.images import DecodedPhoto, decode_photo

ASPECT_TOLERANCE = 0.02
SMALLEST_SHARE = 1e-3
"""A mask that marks a smaller share of an image than this counts as empty."""


def find_masks(photos: Sequence[Path]) -> CompanionFiles:
    """Find the mask files of photos: "3.mask.png" or "3.jpg.mask.png" for "3.jpg".

    Raises:
        StudioError: a mask belongs to no photo.
    """
    found = find_mask_files(photos)
    orphan = next((notice for notice in found.notices if notice.is_orphan), None)
    if orphan is not None:
        base = mask_base(orphan.file.name)
        raise StudioError(
            f"{orphan.file}: the folder has no photo named {base!r}. Rename the mask after its "
            "photo, or remove it."
        )
    return found


def read_mask(photo: DecodedPhoto, kind: str, file: Path | None) -> Image.Image | None:
    """Read a photo's mask, at the photo's size; None if it has none.

    Args:
        kind: "files", "alpha" or "none".
        file: The mask file (`find_masks`); None if there is none.

    Raises:
        StudioError: the mask has another aspect ratio than its photo, or is all black.
    """
    if kind == "none":
        return None
    if kind == "alpha":
        mask, where = photo.alpha, photo.path
    elif file is not None:
        mask, where = decode_photo(file).image.convert("L"), file
    else:
        return None
    if mask is None:
        return None
    ratio = mask.width / mask.height / (photo.image.width / photo.image.height)
    if abs(ratio - 1) > ASPECT_TOLERANCE:
        raise StudioError(
            f"{where} is {mask.width}x{mask.height}, another shape than its photo "
            f"({photo.image.width}x{photo.image.height}). Draw it on the photo as it is shown."
        )
    if subject_share(mask, (0, 0, 1, 1), of_picture=True) < SMALLEST_SHARE:
        raise StudioError(
            f"{where} marks nothing: white is the subject, and it is all black. Draw it, or "
            "remove it."
        )
    return mask.resize(photo.image.size, Image.Resampling.BILINEAR)


def subject_share(
    mask: Image.Image, box: tuple[float, float, float, float], of_picture: bool = False
) -> float:
    """Return the share of a mask's white that is in a box.

    Args:
        box: left, top, right, bottom, each 0 to 1 of the image.
        of_picture: Return the white in the box as a share of the whole image instead.
    """
    small = np.asarray(mask.resize((64, 64), Image.Resampling.BOX), dtype=np.float64) / 255
    left, top, right, bottom = (round(side * 64) for side in box)
    inside = float(small[top:bottom, left:right].sum())
    return inside / (small.size if of_picture else max(float(small.sum()), 1e-9))


def loss_mask(
    mask: Image.Image,  # of the training image's size
    floor: float,
    size: tuple[int, int],
    photo: Path,
) -> Tensor:  # (1, height, width), float32
    """Return the mask of an image's latents for the loss: `floor` for black, 1 for white.

    It is divided by its mean, so that an image counts the same however small its subject is, and
    the learning rate has the same effect with and without masks.

    Args:
        size: (height, width) of the latents.

    Raises:
        StudioError: the image shows nothing of the subject.
    """
    white = torch.from_numpy(np.array(mask, dtype=np.float32) / 255)[None, None]
    white = adaptive_avg_pool2d(white, size)[0]
    if float(white.mean()) < SMALLEST_SHARE:
        raise StudioError(
            f"{photo}: the training crop shows nothing of the subject that its mask marks. Crop "
            "the photo around the subject, or use --buckets."
        )
    scaled = floor + (1 - floor) * white
    return scaled / scaled.mean()
