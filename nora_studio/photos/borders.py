"""Detection of black bars around a photo, such as those of a letterboxed film."""

import numpy as np

DARK = 24
"""Highest grey level, of 255, inside a bar; JPEG noise at its edge stays below."""
STEP = 8
"""Grey levels by which the image next to a bar must be lighter than the bar."""
MOST_OF_A_ROW = 0.7
"""Share of a row's pixels that must be lighter by that."""
THINNEST = 0.02
"""Smallest thickness of a bar, as a share of the image's side."""
_SOFT_ROWS = 2
"""Rows at a bar's edge that scaling may have blended."""


def black_bars(grey: np.ndarray) -> tuple[float, float]:
    """Return the shares of an image's height and width that are black bars, 0 if there are none.

    A bar counts only if there is one on the opposite side too, and if it ends along a straight
    line: a dark sky ends gradually, and a subject on a black background touches the line in only a
    few places.

    Args:
        grey: Grey levels (height, width), 0 to 255.
    """
    left, right = _count_black_rows(grey.T)
    inside = grey[:, left : grey.shape[1] - right] if left and right else grey
    down = _bars(inside)
    top, bottom = _count_black_rows(grey)
    middle = grey[top : len(grey) - bottom] if top and bottom else grey
    across = _bars(middle.T)
    return down, across


def _count_black_rows(grey: np.ndarray) -> tuple[int, int]:
    """Count the black rows at both ends; 0, 0 for an image that is all black."""
    light = np.flatnonzero(grey.max(axis=1) > DARK)
    return (int(light[0]), int(len(grey) - 1 - light[-1])) if len(light) else (0, 0)


def _bars(grey: np.ndarray) -> float:
    """Return the share of rows that are in two opposite bars."""
    first, last = _count_black_rows(grey)
    least = max(1, THINNEST * len(grey))
    rows = len(grey) - first - last
    if min(first, last) < least or rows <= 2 * _SOFT_ROWS:
        return 0.0
    for bar, adjacent in (
        (grey[:first], grey[first + _SOFT_ROWS]),
        (grey[len(grey) - last :], grey[len(grey) - 1 - last - _SOFT_ROWS]),
    ):
        if (adjacent > bar.mean() + STEP).mean() < MOST_OF_A_ROW:
            return 0.0
    return (first + last) / len(grey)
