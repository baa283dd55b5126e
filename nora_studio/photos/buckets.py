"""Aspect buckets: sizes of one area, and which of them a photo is cut to.

Source: SDXL's multi-aspect training, arXiv 2307.01952, section 2.3 and appendix I.
"""

import math
from collections.abc import Sequence

Size = tuple[int, int]
"""(height, width) in pixels."""

WIDEST_ASPECT = 4.0
"""SDXL's own buckets end at 512 x 2048."""

MULTI_ASPECT_RESOLUTION = 512
"""Models of a smaller native picture have only ever seen squares."""

LOST_TO_A_SQUARE = 0.1
"""Share of a photo that the centre square may cut off before buckets are worth their shapes."""


def bucket_step(resolution: int, latent_scale: int) -> int:
    """Of what the buckets' sides are multiples: SDXL's 64, finer where the pictures are small.

    Args:
        latent_scale: Pixels to a side of one latent.
    """
    return max(latent_scale, min(64, resolution // 16) // latent_scale * latent_scale)


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """The square of `resolution`, and the sizes in multiples of `step` of at most its area.

    Never above that area, so that a step that fits in memory for the square fits for all.
    """
    sizes = {(resolution, resolution)}
    for side in range(step, resolution, step):
        longer = resolution**2 // side // step * step
        if side < longer <= WIDEST_ASPECT * side:
            sizes |= {(side, longer), (longer, side)}
    return sorted(sizes)


def nearest_size(original: Size, sizes: Sequence[Size]) -> Size:
    """The size whose aspect is nearest to a photo's; of two as near, the larger."""

    def distance(size: Size) -> tuple[float, int]:
        ratio = size[1] / size[0] / (original[1] / original[0])
        return round(abs(math.log(ratio)), 6), -size[0] * size[1]

    return min(sizes, key=distance)


def covering_scale(original: Size, size: Size) -> float:
    """Factor by which a photo is scaled so that it just covers a size."""
    return max(size[0] / original[0], size[1] / original[1])


def buckets_pay(originals: Sequence[Size], resolution: int) -> bool:
    """Whether photos are better cut to buckets than to squares, where nobody said.

    Buckets show a photo whole and SDXL knows their shapes, but every shape is one more to compile
    for and batches are less mixed. So: only if a square would cut off something worth seeing, and
    only on a model that learned more than squares.
    """
    kept = min(min(size) / max(size) for size in originals)
    return resolution >= MULTI_ASPECT_RESOLUTION and 1 - kept > LOST_TO_A_SQUARE
