"""All places: outdoor ones from `outdoors`, and here night, underwater, the moon and rooms."""

from collections.abc import Callable

import torch
from torch import Tensor

from nora_studio.mini.world.outdoors import (
    Painted,
    paint_beach,
    paint_city,
    paint_desert,
    paint_forest,
    paint_grass,
    paint_snow,
)
from nora_studio.mini.world.scenery import Scenery
from nora_studio.mini.world.shapes import box, circle, ellipse


def _paint_night(s: Scenery) -> Painted:
    pen = s.pen(s.sky((0.03, 0.04, 0.16), (0.12, 0.15, 0.38), 1.4))
    for i in range(26):
        x, y = -1 + 2 * s.hashed(i), -1 + 1.15 * s.hashed(i, 3.0)
        pen.flat(circle(s.x, s.y, x, y, 0.010 + 0.014 * s.hashed(i, 4.0)), (1.0, 1.0, 0.88))
    x, y = -0.75 + 1.5 * s.number(9), -0.72 + 0.2 * s.number(10)
    shadow = circle(s.x, s.y, x + 0.09, y - 0.04, 0.15)
    crescent = torch.maximum(circle(s.x, s.y, x, y, 0.17), -shadow)
    pen.flat(crescent, (0.98, 0.95, 0.75))
    ground = s.blend((0.10, 0.16, 0.20), (0.06, 0.10, 0.14), s.y - s.horizon)
    pen.flat(s.wave(0.05, 2.5, 11) - s.y, ground)
    return pen.canvas, s.horizon


def _paint_underwater(scenery: Scenery) -> Painted:
    water = scenery.sky((0.25, 0.72, 0.86), (0.03, 0.24, 0.50), 1.9)
    rays = (torch.sin((scenery.x + 0.35 * scenery.y) * 7 + 6 * scenery.number(9)) - 0.55).clamp_min(
        0
    ) * 0.5
    rays = (rays * (1 - (scenery.y + 1) / 1.6)).clamp(0, 1)[:, None]
    pen = scenery.pen(water + (scenery.color((0.75, 0.95, 1.0)) - water) * rays)
    sand = scenery.blend((0.80, 0.74, 0.52), (0.56, 0.56, 0.44), scenery.noise(10, 3.0))
    pen.flat(scenery.wave(0.04, 3.0, 10) + 0.38 - scenery.y, sand)
    for i in range(6):
        x, height = -0.95 + 0.38 * i + 0.1 * scenery.hashed(i), 0.35 + 0.4 * scenery.hashed(i, 2.0)
        sway = (scenery.x - x - 0.05 * torch.sin(scenery.y * 9 + i)).abs() - 0.035
        green = scenery.color((0.10, 0.50, 0.30)) * (0.8 + 0.5 * scenery.hashed(i, 3.0))[:, None]
        pen.flat(torch.maximum(sway, (0.75 - height) - scenery.y), green)
    for i in range(9):
        x, y = -1 + 2 * scenery.hashed(i, 5.0), -1 + 1.6 * scenery.hashed(i, 6.0)
        bubble = (
            circle(scenery.x, scenery.y, x, y, 0.02 + 0.03 * scenery.hashed(i, 7.0)).abs() - 0.010
        )
        pen.flat(bubble, (0.85, 0.97, 1.0))
    return pen.canvas, scenery.horizon + 0.2


def _paint_moon(s: Scenery) -> Painted:
    pen = s.pen(s.color((0.02, 0.02, 0.05)))
    for i in range(20):
        x, y = -1 + 2 * s.hashed(i), -1 + 1.2 * s.hashed(i, 3.0)
        pen.flat(circle(s.x, s.y, x, y, 0.008 + 0.012 * s.hashed(i, 4.0)), (1.0, 1.0, 1.0))
    earth_x = -0.7 + 1.4 * s.number(9)
    earth = circle(s.x, s.y, earth_x, -0.62, 0.20)
    pen.flat(earth, (0.22, 0.48, 0.88))
    land = ellipse(s.x, s.y, earth_x - 0.05, -0.60, 0.12, 0.09)
    pen.flat(torch.maximum(earth, land), (0.3, 0.65, 0.32))
    dust = s.blend((0.70, 0.70, 0.71), (0.54, 0.54, 0.56), s.noise(10, 2.0))
    pen.flat(s.wave(0.03, 3.0, 10) - s.y, dust)
    for i in range(6):
        x, y = -1 + 2 * s.hashed(i, 5.0), s.horizon + 0.14 + 0.75 * s.hashed(i, 6.0)
        r = 0.07 + 0.09 * s.hashed(i, 7.0)
        pen.flat(ellipse(s.x, s.y, x, y, r * 1.25, r * 0.5), (0.44, 0.44, 0.46))
        pen.flat(ellipse(s.x, s.y, x, y + 0.015, r * 1.05, r * 0.36), (0.58, 0.58, 0.60))
    return pen.canvas, s.horizon


def _paint_table(s: Scenery) -> Painted:
    wall = s.background * 0.35 + s.color((0.88, 0.84, 0.76)) * 0.65
    pen = s.pen(s.blend(wall, wall * 0.82, (s.y + 1) / 1.5 + s.x * 0.2))
    grain = torch.sin(s.x * 3 + s.y * 40 + 5 * s.noise(5, 2.0)) * 0.5 + 0.5
    edge = s.horizon + 0.02
    pen.flat(edge - s.y, s.blend((0.66, 0.43, 0.23), (0.54, 0.33, 0.16), grain))
    for i in range(1, 5):
        pen.flat((s.y - edge - 0.05 * i * i).abs() - 0.008, (0.34, 0.20, 0.10))
    pen.flat((s.y - edge).abs() - 0.012, (0.36, 0.22, 0.12))
    return pen.canvas, s.horizon


def _paint_brick(s: Scenery) -> Painted:
    rows = 7.0
    row = torch.floor(s.y * rows)
    along = s.x * rows * 0.5 + 0.5 * torch.remainder(row, 2) + s.number(9)
    to_side, to_top = _to_border(along), _to_border(s.y * rows)
    tone = torch.sin(torch.floor(along) * 12.9 + row * 78.2 + s.number(10)) * 43758.5
    brick = s.blend((0.70, 0.30, 0.22), (0.55, 0.20, 0.16), torch.remainder(tone, 1))
    inside = (torch.minimum(to_side * 2, to_top) - 0.07) / (s.pixel * rows) + 0.5
    pen = s.pen(s.blend((0.80, 0.75, 0.70), brick, inside))
    curb = s.horizon + 0.25
    pen.flat(curb - s.y, s.blend((0.60, 0.60, 0.60), (0.46, 0.46, 0.47), s.y - s.horizon))
    pen.flat((s.y - curb).abs() - 0.01, (0.3, 0.3, 0.3))
    return pen.canvas, s.horizon + 0.1


def _paint_kitchen(s: Scenery) -> Painted:
    tile = s.background * 0.25 + s.color((0.92, 0.95, 0.96)) * 0.75
    border = torch.minimum(_to_border(s.x * 4), _to_border(s.y * 4))
    pen = s.pen(s.blend((0.70, 0.74, 0.76), tile, (border - 0.04) / (s.pixel * 4) + 0.5))
    window = -0.6 + 1.2 * s.number(9)
    pen.flat(box(s.x, s.y, window, -0.55, 0.34, 0.32), (0.95, 0.95, 0.95))
    pen.flat(box(s.x, s.y, window, -0.55, 0.29, 0.27), (0.60, 0.82, 0.96))
    pen.flat(box(s.x, s.y, window, -0.55, 0.015, 0.27), (0.95, 0.95, 0.95))
    pen.flat(s.horizon - s.y, (0.86, 0.86, 0.84))
    pen.flat(s.horizon + 0.75 - s.y, s.background * 0.5 + 0.25)
    pen.flat((s.y - s.horizon).abs() - 0.02, (0.55, 0.52, 0.50))
    return pen.canvas, s.horizon


def _paint_plain(s: Scenery) -> Painted:
    vignette = torch.sqrt(s.x**2 + s.y**2) * 0.6
    return s.blend(s.background, s.background * 0.86, vignette), s.horizon


def _to_border(position: Tensor) -> Tensor:
    """Return the distance to the border of the unit tile that contains `position`."""
    inside = torch.frac(position + 50)
    return torch.minimum(inside, 1 - inside)


PAINTERS: dict[str, Callable[[Scenery], Painted]] = {
    "snow": paint_snow,
    "grass": paint_grass,
    "beach": paint_beach,
    "forest": paint_forest,
    "night": _paint_night,
    "table": _paint_table,
    "brick": _paint_brick,
    "city": paint_city,
    "desert": paint_desert,
    "underwater": _paint_underwater,
    "moon": _paint_moon,
    "kitchen": _paint_kitchen,
    "plain": _paint_plain,
}
