"""Signed distance fields in the plane: negative inside, zero on the outline, y pointing down.

`x` and `y` are (count, size, size); every other number is a float or a (count, 1, 1) tensor.
Most formulas are Inigo Quilez's, "2D distance functions" (iquilezles.org).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Number = Tensor | float
Point = tuple[Number, Number]

_TINY = 1e-9  # keeps square roots away from zero


def circle(x: Tensor, y: Tensor, center_x: Number, center_y: Number, radius: Number) -> Tensor:
    """Return distances to a circle's outline, negative inside."""
    return torch.sqrt((x - center_x) ** 2 + (y - center_y) ** 2 + _TINY) - radius


def ellipse(
    x: Tensor,
    y: Tensor,
    center_x: Number,
    center_y: Number,
    half_width: Number,
    half_height: Number,
) -> Tensor:
    """Return approximate distances to an ellipse: exact on the outline, close near it."""
    px, py = x - center_x, y - center_y
    k1 = torch.sqrt((px / half_width) ** 2 + (py / half_height) ** 2 + _TINY)
    k2 = torch.sqrt((px / half_width**2) ** 2 + (py / half_height**2) ** 2 + _TINY)
    return k1 * (k1 - 1) / k2


def box(
    x: Tensor,
    y: Tensor,
    center_x: Number,
    center_y: Number,
    half_width: Number,
    half_height: Number,
    corner: float = 0.0,
) -> Tensor:
    """Return distances to a rectangle with corners rounded by radius `corner`."""
    qx = (x - center_x).abs() - half_width + corner
    qy = (y - center_y).abs() - half_height + corner
    outside = torch.sqrt(qx.clamp_min(0) ** 2 + qy.clamp_min(0) ** 2 + 1e-12)
    return outside + torch.maximum(qx, qy).clamp_max(0) - corner


def segment(x: Tensor, y: Tensor, start: Point, end: Point, radius: Number) -> Tensor:
    """Return distances to a line with round ends."""
    px, py = x - start[0], y - start[1]
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = ((px * dx + py * dy) / (dx * dx + dy * dy + _TINY)).clamp(0, 1)
    return torch.sqrt((px - dx * along) ** 2 + (py - dy * along) ** 2 + _TINY) - radius


def polygon(x: Tensor, y: Tensor, points: Sequence[Point]) -> Tensor:
    """Return distances to a simple polygon, given by its corners."""
    squared = torch.full_like(x, 1e6)
    sign = torch.ones_like(x)
    for (ax, ay), (bx, by) in zip(points, [points[-1], *points[:-1]], strict=True):
        ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
        along = ((px * ex + py * ey) / (ex * ex + ey * ey + _TINY)).clamp(0, 1)
        squared = torch.minimum(squared, (px - ex * along) ** 2 + (py - ey * along) ** 2)
        above, below, left = y >= ay, y < by, ex * py > ey * px
        crosses = (above & below & left) | (~above & ~below & ~left)
        sign = torch.where(crosses, -sign, sign)
    return sign * torch.sqrt(squared + 1e-12)


def star(x: Tensor, y: Tensor, center_x: Number, center_y: Number, radius: Number) -> Tensor:
    """Return distances to a five-pointed star, one point up."""
    sector = 2 * math.pi / 5
    px, py = x - center_x, y - center_y
    angle = (torch.remainder(torch.atan2(px, -py) + sector / 2, sector) - sector / 2).abs()
    length = torch.sqrt(px**2 + py**2 + _TINY)
    # In each sector: distance to the edge from the tip (0, radius) to the inner corner.
    inner_x, inner_y = 0.45 * math.sin(sector / 2), 0.45 * math.cos(sector / 2)
    normal_x, normal_y = 1 - inner_y, inner_x
    along = length * torch.sin(angle) * normal_x + (length * torch.cos(angle) - radius) * normal_y
    return along / math.hypot(normal_x, normal_y)


def heart(x: Tensor, y: Tensor, center_x: Number, center_y: Number, radius: Number) -> Tensor:
    """Return distances to a heart; `radius` is half its width."""
    unit = 1.62 * radius
    px, py = (x - center_x).abs() / unit, 0.58 - (y - center_y) / unit
    lobe = torch.sqrt((px - 0.25) ** 2 + (py - 0.75) ** 2 + _TINY) - math.sqrt(2) / 4
    fold = 0.5 * (px + py).clamp_min(0)
    squared = torch.minimum(px**2 + (py - 1) ** 2, (px - fold) ** 2 + (py - fold) ** 2)
    tip = torch.sqrt(squared + _TINY) * torch.sign(px - py)
    return torch.where(px + py > 1, lobe, tip) * unit


def flower(x: Tensor, y: Tensor, center_x: Number, center_y: Number, radius: Number) -> Tensor:
    """Return distances to a flower with five round petals."""
    sector = 2 * math.pi / 5
    px, py = x - center_x, y - center_y
    angle = torch.remainder(torch.atan2(px, -py) + sector / 2, sector) - sector / 2
    length = torch.sqrt(px**2 + py**2 + _TINY)
    petal_x, petal_y = length * torch.sin(angle), length * torch.cos(angle)
    petal = torch.sqrt(petal_x**2 + (petal_y - 0.6 * radius) ** 2 + _TINY) - 0.42 * radius
    return torch.minimum(petal, length - 0.5 * radius)
