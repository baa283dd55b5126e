"""Aspect buckets: training sizes of about the same area, and the choice of one for a photo.

Source: SDXL's multi-aspect training, arXiv 2307.01952, section 2.3 and appendix I.
"""

import math
from collections.abc import Sequence

Size = tuple[int, int]
"""(height, width) in pixels."""

WIDEST_ASPECT = 4.0
"""SDXL's own buckets end at 512 x 2048."""

MULTI_ASPECT_RESOLUTION = 512
"""Models with a smaller native resolution were trained on squares only."""

LOST_TO_A_SQUARE = 0.1
"""Share of a photo that a centre square may cut off before buckets are recommended."""


def bucket_step(resolution: int, latent_scale: int) -> int:
    """Return the number that the buckets' sides are multiples of: 64 as in SDXL, or less.

    Args:
        latent_scale: Pixels per side of one latent.
    """
    return max(latent_scale, min(64, resolution // 16) // latent_scale * latent_scale)


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """Return the square of `resolution`, and the sizes in multiples of `step` of at most its area.

    No size is larger than the square, so that a training step that fits in memory for it fits for
    all sizes.
    """
    sizes = {(resolution, resolution)}
    for side in range(step, resolution, step):
        longer = resolution**2 // side // step * step
        if side < longer <= WIDEST_ASPECT * side:
            sizes |= {(side, longer), (longer, side)}
    return sorted(sizes)


def nearest_size(original: Size, sizes: Sequence[Size]) -> Size:
    """Return the size whose aspect ratio is nearest to a photo's; the larger one of equals."""

    def distance(size: Size) -> tuple[float, int]:
        ratio = size[1] / size[0] / (original[1] / original[0])
        return round(abs(math.log(ratio)), 6), -size[0] * size[1]

    return min(sizes, key=distance)


def covering_scale(original: Size, size: Size) -> float:
    """Return the factor by which to scale a photo so that it just covers a size."""
    return max(size[0] / original[0], size[1] / original[1])


def buckets_pay(originals: Sequence[Size], resolution: int) -> bool:
    """Return whether buckets are recommended for photos, instead of squares.

    Buckets show a photo whole, and SDXL was trained on their shapes; but each shape is compiled for
    separately, and batches are less mixed. They are recommended only if a square would cut off more
    than `LOST_TO_A_SQUARE`, and only for a model that was trained on more than squares.
    """
    kept = min(min(size) / max(size) for size in originals)
    return resolution >= MULTI_ASPECT_RESOLUTION and 1 - kept > LOST_TO_A_SQUARE
