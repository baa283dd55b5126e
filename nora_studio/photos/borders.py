"""Black bars around a photo, as a film on a screen of another shape has them."""

import numpy as np

DARK = 24
"""Grey level of 255 that nothing in a bar passes; JPEG's noise at its edge stays below."""
STEP = 8
"""Grey levels by which the picture beside a bar is lighter, at least in most places."""
MOST_OF_A_ROW = 0.7
THINNEST = 0.02
"""Share of the picture's side that each of two bars has at least."""
_SOFT_ROWS = 2
"""Rows at a bar's edge that scaling may have mixed."""


def black_bars(grey: np.ndarray) -> tuple[float, float]:
    """Shares of a picture's height and width that black bars take, 0 where there are none.

    A bar counts where another one lies opposite, and where it ends along a straight line: a dark
    sky ends gradually, and a subject before a black ground touches a line in a few places.

    Args:
        grey: Grey levels (height, width), 0 to 255.
    """
    left, right = _ends(grey.T)
    inside = grey[:, left : grey.shape[1] - right] if left and right else grey
    down = _bars(inside)
    top, bottom = _ends(grey)
    middle = grey[top : len(grey) - bottom] if top and bottom else grey
    across = _bars(middle.T)
    return down, across


def _ends(grey: np.ndarray) -> tuple[int, int]:
    """How many rows at both ends are black; 0, 0 of a picture that is black all over."""
    light = np.flatnonzero(grey.max(axis=1) > DARK)
    return (int(light[0]), int(len(grey) - 1 - light[-1])) if len(light) else (0, 0)


def _bars(grey: np.ndarray) -> float:
    """Share of the rows that are in two opposite bars."""
    first, last = _ends(grey)
    least = max(1, THINNEST * len(grey))
    rows = len(grey) - first - last
    if min(first, last) < least or rows <= 2 * _SOFT_ROWS:
        return 0.0
    for bar, beside in (
        (grey[:first], grey[first + _SOFT_ROWS]),
        (grey[len(grey) - last :], grey[len(grey) - 1 - last - _SOFT_ROWS]),
    ):
        if (beside > bar.mean() + STEP).mean() < MOST_OF_A_ROW:
            return 0.0
    return (first + last) / len(grey)
