"""Things that no caption of the toy world names, drawn with the same pen in object space."""

from collections.abc import Sequence

import torch

from nora_studio.mini.world.objects import GROUND, Anchors, Kind, Paint
from nora_studio.mini.world.pen import INK, WHITE, Pen
from nora_studio.mini.world.shapes import Point, box, circle, ellipse, polygon, segment

_WOOD = (0.58, 0.40, 0.22)
_STEEL = (0.62, 0.64, 0.68)
_BARE = Anchors((0.0, -0.8, 0.3), (0.0, 0.0, 0.2), (0.0, 0.3, 0.3), (0.0, 0.1, 0.2))
"""Anchors of new things, which wear nothing."""


def _draw_umbrella(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    radius = 0.78 + 0.12 * number(0)
    rim = 0.0 + 0.1 * number(1)
    pen.part(segment(x, y, (0.0, rim - 0.3), (0.0, 0.72), 0.035), _STEEL)
    hook = torch.maximum(circle(x, y, 0.12, 0.72, 0.12).abs() - 0.04, 0.72 - y)
    pen.part(hook, paint.second)
    dome = torch.maximum(circle(x, y, 0.0, rim, radius), y - rim)
    for side in (-1, 0, 1):
        bite = circle(x, y, side * radius * 0.66, rim + 0.06, radius * 0.33)
        dome = torch.maximum(dome, -bite)
    pen.part(dome, paint.surface)
    pen.part(circle(x, y, 0.0, rim - radius, 0.05), paint.second)
    return _BARE


def _draw_clock(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    radius = 0.6 + 0.1 * number(0)
    middle = GROUND - radius - 0.08
    for side in (-1, 1):
        foot = (side * radius * 0.7, GROUND)
        pen.part(segment(x, y, (side * radius * 0.4, middle), foot, 0.07), paint.second)
        pen.part(circle(x, y, side * radius * 0.55, middle - radius * 0.98, 0.16), paint.second)
    pen.part(circle(x, y, 0.0, middle, radius), paint.surface)
    pen.part(circle(x, y, 0.0, middle, radius * 0.72), WHITE, 0.02, 0.2)
    for hour in range(12):
        angle = torch.tensor(hour * torch.pi / 6)
        place = (radius * 0.6 * float(angle.sin()), middle - radius * 0.6 * float(angle.cos()))
        pen.flat(circle(x, y, *place, 0.035), INK)
    for length, turn in ((0.34, number(2)), (0.5, number(3))):
        angle = 2 * torch.pi * turn
        tip = (radius * length * torch.sin(angle), middle - radius * length * torch.cos(angle))
        pen.flat(segment(x, y, (0.0, middle), tip, 0.035), INK)
    return _BARE


def _draw_lamp(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    wide, high = 0.5 + 0.1 * number(0), 0.5 + 0.1 * number(1)
    pen.part(ellipse(x, y, 0.0, GROUND - 0.06, 0.36, 0.09), paint.second)
    pen.part(segment(x, y, (0.0, -0.1), (0.0, GROUND - 0.1), 0.06), paint.second)
    bottom = 0.05 * number(2)
    shade = [(-wide, bottom), (-wide * 0.45, bottom - high), (wide * 0.45, bottom - high)]
    pen.part(ellipse(x, y, 0.0, bottom + 0.04, 0.14, 0.16), (1.0, 0.95, 0.6), 0.02, 0.2)
    pen.part(polygon(x, y, [*shade, (wide, bottom)]), paint.surface, shade=0.5)
    return _BARE


def _draw_chair(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    wide, seat = 0.42 + 0.1 * number(0), 0.22 + 0.08 * number(1)
    top = -0.62 - 0.15 * number(2)
    for side in (-1, 1):
        pen.part(box(x, y, side * wide * 0.86, (seat + GROUND) / 2, 0.06, 0.34, 0.02), paint.second)
        pen.part(
            box(x, y, side * wide * 0.86, (top + seat) / 2, 0.05, (seat - top) / 2, 0.02),
            paint.second,
        )
    back = box(x, y, 0.0, top + 0.26, wide * 0.86, 0.24, 0.05)
    pen.part(back, paint.surface)
    pen.part(box(x, y, 0.0, seat, wide + 0.06, 0.09, 0.04), paint.surface)
    return _BARE


def _draw_guitar(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    low, high = 0.4 + 0.06 * number(0), 0.28 + 0.05 * number(1)
    middle = GROUND - low
    pen.part(box(x, y, 0.0, -0.42, 0.06, 0.42), _WOOD)
    pen.part(box(x, y, 0.0, -0.9, 0.11, 0.12, 0.03), paint.second)
    body = torch.minimum(
        circle(x, y, 0.0, middle, low), circle(x, y, 0.0, middle - low * 0.95, high)
    )
    pen.part(body, paint.surface)
    pen.flat(circle(x, y, 0.0, middle - low * 0.45, 0.13), INK)
    pen.part(box(x, y, 0.0, middle + low * 0.35, 0.18, 0.04), _WOOD, 0.02)
    for string in (-1, 0, 1):
        pen.flat(box(x, y, 0.03 * string, middle * 0.5 - 0.35, 0.006, 0.6), WHITE)
    return _BARE


def _draw_sailboat(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    long, tall = 0.66 + 0.14 * number(0), 0.98 + 0.16 * number(1)
    deck = 0.5
    pen.part(segment(x, y, (0.0, deck - tall - 0.1), (0.0, deck), 0.03), _WOOD)
    pen.part(
        polygon(x, y, [(0.06, deck - tall), (0.06, deck - 0.1), (long * 0.85, deck - 0.1)]),
        paint.surface,
        shade=0.4,
    )
    jib = [(-0.06, deck - tall * 0.8), (-0.06, deck - 0.1), (-long * 0.6, deck - 0.1)]
    pen.part(polygon(x, y, jib), WHITE, shade=0.4)
    hull = [(-long, deck), (long, deck), (long * 0.66, GROUND), (-long * 0.66, GROUND)]
    pen.part(polygon(x, y, hull), paint.second, shade=0.7)
    return _BARE


def _draw_mushroom(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    wide, stem = 0.62 + 0.14 * number(0), 0.2 + 0.08 * number(1)
    rim = 0.16 + 0.1 * number(2)
    pen.part(box(x, y, 0.0, (rim + GROUND) / 2, stem, (GROUND - rim) / 2, 0.12), (0.95, 0.9, 0.8))
    cap = torch.maximum(ellipse(x, y, 0.0, rim, wide, 0.62 + 0.1 * number(3)), y - rim)
    pen.part(cap, paint.surface, shade=1.3)
    pen.flat(ellipse(x, y, 0.0, rim, wide * 0.95, 0.05), (0.85, 0.76, 0.66))
    return _BARE


def _draw_cactus(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    top = -0.62 - 0.12 * number(0)
    for side, first in ((-1, 0.1 * number(1)), (1, -0.2 + 0.2 * number(2))):
        elbow = (side * 0.46, first)
        pen.part(segment(x, y, (0.0, first), elbow, 0.1), paint.main)
        pen.part(segment(x, y, elbow, (side * 0.46, first - 0.32), 0.1), paint.main)
    pen.part(segment(x, y, (0.0, top), (0.0, 0.6), 0.21), paint.surface)
    pot = [(-0.34, 0.45), (0.34, 0.45), (0.25, GROUND), (-0.25, GROUND)]
    pen.part(polygon(x, y, pot), paint.second)
    pen.part(circle(x, y, 0.0, top - 0.2, 0.08), (0.97, 0.5, 0.7), 0.02)
    return _BARE


def _draw_bell(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    wide, high = 0.62 + 0.1 * number(0), 1.0 + 0.14 * number(1)
    rim = 0.62
    pen.part(circle(x, y, 0.0, rim - high - 0.08, 0.13).abs() - 0.04, paint.second)
    pen.part(circle(x, y, 0.0, rim + 0.06, 0.15), paint.second)
    dome = torch.maximum(ellipse(x, y, 0.0, rim, wide * 0.74, high), y - rim)
    flare = polygon(
        x, y, [(-wide * 0.7, rim - 0.24), (wide * 0.7, rim - 0.24), (wide, rim), (-wide, rim)]
    )
    pen.part(torch.minimum(dome, flare), paint.surface)
    pen.part(box(x, y, 0.0, rim, wide, 0.05, 0.04), paint.second)
    return _BARE


def _draw_key(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    radius = 0.3 + 0.06 * number(0)
    middle = -0.5
    end = 0.68 + 0.14 * number(1)
    for place in (end - 0.08, end - 0.32):
        pen.part(box(x, y, 0.18, place, 0.16, 0.07, 0.02), paint.second)
    pen.part(
        box(x, y, 0.0, (middle + end) / 2 + 0.12, 0.08, (end - middle) / 2 - 0.1), paint.second
    )
    pen.part(circle(x, y, 0.0, middle, radius).abs() - 0.12, paint.surface)
    return _BARE


def _draw_cupcake(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    wide = 0.5 + 0.1 * number(0)
    rim = 0.2 + 0.08 * number(1)
    cup = [(-wide, rim), (wide, rim), (wide * 0.7, GROUND), (-wide * 0.7, GROUND)]
    pen.part(polygon(x, y, cup), paint.second, shade=0.6)
    for fold in (-2, -1, 0, 1, 2):
        across = fold * wide / 3
        pen.flat(segment(x, y, (across, rim + 0.06), (across * 0.72, GROUND - 0.04), 0.014), INK)
    for level, share in enumerate((1.12, 0.86, 0.55)):
        pen.part(ellipse(x, y, 0.0, rim - 0.06 - 0.26 * level, wide * share, 0.2), paint.surface)
    pen.part(circle(x, y, 0.0, rim - 0.86, 0.11), (0.85, 0.1, 0.15))
    return _BARE


def _draw_balloon(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    a, b = 0.48 + 0.08 * number(0), 0.58 + 0.1 * number(1)
    middle = -0.35
    end = (0.25 * number(2) - 0.12, GROUND)
    pen.flat(segment(x, y, (0.0, middle + b), end, 0.022), INK)
    knot = [(-0.1, middle + b + 0.12), (0.1, middle + b + 0.12), (0.0 * a, middle + b - 0.05)]
    pen.part(polygon(x, y, knot), paint.second)
    pen.part(ellipse(x, y, 0.0, middle, a, b), paint.surface, shade=1.5, depth=0.5)
    pen.flat(ellipse(x, y, -0.4 * a, middle - 0.28, 0.07, 0.13), WHITE, 0.6)
    return _BARE


def _draw_windmill(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    hub = -0.3
    tower = [
        (-0.2, hub),
        (0.2, hub),
        (0.4 + 0.1 * number(0), GROUND),
        (-0.4 - 0.1 * number(0), GROUND),
    ]
    pen.part(polygon(x, y, tower), paint.surface, shade=0.6)
    pen.part(box(x, y, 0.0, GROUND - 0.17, 0.1, 0.17, 0.02), paint.second * 0.7)
    turn = torch.pi / 2 * number(1)
    for blade in range(4):
        angle = turn + blade * torch.pi / 2
        tip = (0.72 * torch.sin(angle), hub - 0.72 * torch.cos(angle))
        near = (0.2 * torch.sin(angle), hub - 0.2 * torch.cos(angle))
        pen.part(segment(x, y, near, tip, 0.1), paint.second, 0.02, 0.4)
    pen.part(circle(x, y, 0.0, hub, 0.1), INK)
    return _BARE


def _draw_candle(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    wide, top = 0.2 + 0.08 * number(0), -0.3 - 0.16 * number(1)
    pen.part(ellipse(x, y, 0.0, GROUND - 0.06, 0.5, 0.1), paint.second)
    pen.part(circle(x, y, 0.52, GROUND - 0.12, 0.11).abs() - 0.035, paint.second)
    pen.part(box(x, y, 0.0, (top + 0.74) / 2, wide, (0.74 - top) / 2, 0.03), paint.surface)
    pen.flat(box(x, y, 0.0, top - 0.06, 0.018, 0.07), INK)
    pen.part(ellipse(x, y, 0.0, top - 0.27, 0.11, 0.2), (1.0, 0.62, 0.1), 0.02)
    pen.flat(ellipse(x, y, 0.0, top - 0.22, 0.05, 0.11), (1.0, 0.93, 0.4))
    return _BARE


def _draw_anchor(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    radius = 0.52 + 0.1 * number(0)
    middle = GROUND - radius - 0.06
    arc = torch.maximum(circle(x, y, 0.0, middle, radius).abs() - 0.1, middle + 0.05 - y)
    pen.part(arc, paint.surface)
    for side in (-1, 1):
        a = side * radius
        fluke = [(a - 0.2, middle + 0.12), (a + 0.2, middle + 0.12), (a, middle - 0.22)]
        pen.part(polygon(x, y, broadcast_points(fluke, pen)), paint.second)
    pen.part(box(x, y, 0.0, 0.1, 0.09, 0.74), paint.surface)
    pen.part(box(x, y, 0.0, -0.4, 0.4, 0.08, 0.04), paint.second)
    pen.part(circle(x, y, 0.0, -0.78, 0.15).abs() - 0.06, paint.second)
    return _BARE


def broadcast_points(points: Sequence[Point], pen: Pen) -> list[Point]:
    """Return points as tensors of one value per picture."""
    zero = torch.zeros_like(pen.x[:, :1, :1])
    return [(a + zero, b + zero) for a, b in points]


def _draw_crayon(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    wide, top = 0.2 + 0.06 * number(0), -0.66 - 0.14 * number(1)
    neck = 0.44
    tip = [(-wide * 0.7, neck), (wide * 0.7, neck), (wide * 0.2, GROUND), (-wide * 0.2, GROUND)]
    pen.part(polygon(x, y, tip), paint.main)
    pen.part(box(x, y, 0.0, (top + neck) / 2, wide, (neck - top) / 2, 0.03), paint.surface)
    for band in (top + 0.16, neck - 0.12):
        pen.flat(box(x, y, 0.0, band, wide, 0.035), INK)
    return _BARE


NEW_THINGS: dict[str, Kind] = {
    "umbrella": Kind(_draw_umbrella, -0.3),
    "clock": Kind(_draw_clock, 0.2),
    "lamp": Kind(_draw_lamp, -0.2),
    "chair": Kind(_draw_chair, 0.0),
    "guitar": Kind(_draw_guitar, 0.4),
    "sailboat": Kind(_draw_sailboat, 0.0),
    "mushroom": Kind(_draw_mushroom, -0.1),
    "cactus": Kind(_draw_cactus, 0.0),
    "bell": Kind(_draw_bell, 0.2),
    "key": Kind(_draw_key, -0.4),
    "cupcake": Kind(_draw_cupcake, -0.1),
    "balloon": Kind(_draw_balloon, -0.35),
    "windmill": Kind(_draw_windmill, 0.3),
    "candle": Kind(_draw_candle, 0.2),
    "anchor": Kind(_draw_anchor, 0.2),
    "crayon": Kind(_draw_crayon, 0.0),
}
"""The new things, by class name."""
