"""Masks: where in a photo the subject is, and what that makes of the loss."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from nora_studio.errors import StudioError
from nora_studio.photos.beside import Belongings, mask_base, masks_beside
from nora_studio.photos.images import DecodedPhoto, decode_photo

ASPECT_TOLERANCE = 0.02
SMALLEST_SHARE = 1e-3
"""A mask that marks less of a picture than this marks nothing."""


def find_masks(photos: Sequence[Path]) -> Belongings:
    """The masks that lie beside photos: "3.mask.png" or "3.jpg.mask.png" for "3.jpg".

    Raises:
        StudioError: a mask belongs to no photo.
    """
    found = masks_beside(photos)
    orphan = next((notice for notice in found.notices if notice.is_orphan), None)
    if orphan is not None:
        base = mask_base(orphan.file.name)
        raise StudioError(
            f"{orphan.file}: there is no photo {base!r} of any kind here. Rename the mask after "
            "its photo, or remove it."
        )
    return found


def read_mask(photo: DecodedPhoto, kind: str, file: Path | None) -> Image.Image | None:
    """A photo's mask at the photo's size, None where it has none.

    Args:
        kind: "files", "alpha" or "none".
        file: Where the mask is, if it is a file (`find_masks`); None: there is none.

    Raises:
        StudioError: the mask is of another shape than its photo, or all black.
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
    """Share of a mask's white that lies in a box.

    Args:
        box: left, top, right, bottom, each 0 to 1 of the picture.
        of_picture: Instead, the white in the box as a share of the whole picture.
    """
    small = np.asarray(mask.resize((64, 64), Image.Resampling.BOX), dtype=np.float64) / 255
    left, top, right, bottom = (round(side * 64) for side in box)
    inside = float(small[top:bottom, left:right].sum())
    return inside / (small.size if of_picture else max(float(small.sum()), 1e-9))


def loss_weights(
    mask: Image.Image,  # of the picture's own size
    floor: float,
    size: tuple[int, int],
    photo: Path,
) -> Tensor:  # (1, height, width), float32
    """Loss weights of a picture's latents: `floor` where the mask is black, 1 where it is white.

    They are then divided by their mean, so that a picture counts the same however small its
    subject is, and the learning rate means the same with masks and without.

    Args:
        size: Of the latents.

    Raises:
        StudioError: nothing of the subject is in the picture.
    """
    white = torch.from_numpy(np.array(mask, dtype=np.float32) / 255)[None, None]
    white = adaptive_avg_pool2d(white, size)[0]
    if float(white.mean()) < SMALLEST_SHARE:
        raise StudioError(
            f"{photo}: the crop leaves nothing of what its mask marks. Crop the photo around the "
            "subject, or use --buckets."
        )
    weights = floor + (1 - floor) * white
    return weights / weights.mean()
