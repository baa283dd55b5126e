"""Things and toys, drawn in object space: about [-1, 1] squared, standing on y = 0.85."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nora_studio.mini.world.pen import INK, WHITE, Pen
from nora_studio.mini.world.shapes import Number, box, circle, ellipse, polygon, segment

GROUND = 0.85
_GLASS = (0.70, 0.87, 0.96)


@dataclass(frozen=True)
class Paint:
    """Colours, surface and individual numbers of an object."""

    main: Tensor
    """(count, 3, 1, 1)."""
    second: Tensor
    surface: Tensor
    """(count, 3, size, size): the main colour with the pattern on it."""
    identity: Tensor
    """(count, IDENTITY_NUMBERS)."""

    def number(self, index: int) -> Tensor:
        """Return one of the individual's uniform numbers, (count, 1, 1)."""
        return self.identity[:, index].view(-1, 1, 1)

    def eyes(self) -> Tensor:
        """Return the eye colours, (count, 3, 1, 1): blue, green, amber or brown."""
        shades = [(0.25, 0.5, 0.9), (0.2, 0.65, 0.3), (0.75, 0.5, 0.1), (0.4, 0.25, 0.15)]
        index = (self.identity[:, 13] * 3.999).long()
        return self.main.new_tensor(shades)[index].view(-1, 3, 1, 1)


Anchor = tuple[Number, Number, Number]


@dataclass(frozen=True)
class Anchors:
    """Where emblems and accessories go: x, y and a size each."""

    hat: Anchor
    eyes: Anchor
    """The size is half the distance between the eyes."""
    neck: Anchor
    emblem: Anchor

    def select(self, index: Tensor) -> "Anchors":
        """Return the anchors of the pictures at `index`."""

        def pick(anchor: Anchor) -> Anchor:
            x, y, size = (v[index] if isinstance(v, Tensor) else v for v in anchor)
            return x, y, size

        return Anchors(pick(self.hat), pick(self.eyes), pick(self.neck), pick(self.emblem))


@dataclass(frozen=True)
class Kind:
    """A class of object: its drawing function, and how high its pattern is centred."""

    draw: Callable[[Pen, Paint], Anchors]
    middle: float
    """Height of the pattern's centre."""


def _corners(xs: Sequence[Number], ys: Sequence[Number]) -> list[tuple[Number, Number]]:
    return list(zip(xs, ys, strict=True))


def _draw_mug(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    width, height = 0.42 + 0.14 * number(0), 0.52 + 0.16 * number(1)
    taper, handle = 0.10 * (number(2) - 0.5), 0.20 + 0.08 * number(3)
    middle = GROUND - height
    top = middle - height
    pen.part(
        circle(x, y, width + 0.02, middle + 0.02, handle + 0.04).abs() - 0.075, paint.main * 0.95
    )
    side = width - taper * (y - middle) / height
    pen.part(torch.maximum(box(x, y, 0.0, middle, side, height, 0.08), y - GROUND), paint.surface)
    pen.part(ellipse(x, y, 0.0, top + 0.03, width + taper, 0.13), paint.main)
    coffee = pen.color((0.30, 0.17, 0.10)) * (0.6 + 0.8 * number(4))[:, None]
    pen.flat(ellipse(x, y, 0.0, top + 0.04, width + taper - 0.09, 0.075), coffee)
    return Anchors(
        hat=(0.0, top + 0.02, width),
        eyes=(0.0, middle - 0.12, width * 0.5),
        neck=(0.0, middle + height * 0.52, width),
        emblem=(0.0, middle + 0.16, 0.24),
    )


def _draw_teapot(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    a, b = 0.52 + 0.12 * number(0), 0.42 + 0.10 * number(1)
    middle = GROUND - b
    spout = (a + 0.26 + 0.1 * number(2), middle - 0.34)
    pen.part(segment(x, y, (a * 0.7, middle + 0.1), spout, 0.085), paint.main)
    pen.part(circle(x, y, -a - 0.04, middle - 0.04, 0.24).abs() - 0.065, paint.main * 0.9)
    pen.part(ellipse(x, y, 0.0, middle, a, b), paint.surface)
    lid = ellipse(x, y, 0.0, middle - b + 0.08, a * 0.55, 0.17)
    pen.part(torch.maximum(lid, y - (middle - b + 0.10)), paint.second)
    pen.part(circle(x, y, 0.0, middle - b - 0.13, 0.085 + 0.03 * number(3)), paint.second)
    return Anchors(
        hat=(0.0, middle - b - 0.14, 0.3),
        eyes=(0.0, middle - 0.08, a * 0.42),
        neck=(0.0, middle + b * 0.45, a * 0.85),
        emblem=(0.0, middle + 0.12, 0.22),
    )


def _draw_ball(pen: Pen, paint: Paint) -> Anchors:
    x, y = pen.x, pen.y
    radius = 0.62 + 0.14 * paint.number(0)
    middle = GROUND - radius
    pen.part(circle(x, y, 0.0, middle, radius), paint.surface, shade=1.5, depth=0.6)
    pen.flat(ellipse(x, y, -0.43 * radius, middle - 0.36, 0.15, 0.09), WHITE, 0.55)
    return Anchors(
        hat=(0.0, middle - radius + 0.06, 0.42),
        eyes=(0.0, middle - 0.1, radius * 0.45),
        neck=(0.0, middle + radius * 0.5, radius * 0.85),
        emblem=(0.0, middle - 0.05, 0.25),
    )


def _draw_box(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    w, h, lift = 0.46 + 0.12 * number(0), 0.50 + 0.14 * number(1), 0.22 + 0.08 * number(2)
    middle = GROUND - h
    top, left, right, back = middle - h, -w - 0.1, w - 0.26, w + 0.12
    lid = _corners(
        (left, right, back - 0.02, -w + 0.2), (top + 0.02, top + 0.02, top - lift, top - lift)
    )
    pen.part(polygon(x, y, lid), paint.main * 1.12, shade=0.4)
    side = [(right, top), (back, top - lift), (back, GROUND - lift), (right, GROUND)]
    pen.part(polygon(x, y, side), paint.main * 0.62, shade=0.4)
    front = [(left, top), (right, top), (right, GROUND), (left, GROUND)]
    pen.part(polygon(x, y, front), paint.surface, shade=0.4)
    pen.part(box(x, y, -0.17, middle, 0.055 + 0.03 * number(3), h), paint.second, 0.02, 0.3)
    return Anchors(
        hat=(-0.02, top - lift * 0.5, 0.4),
        eyes=(-0.17, middle - 0.14, w * 0.42),
        neck=(-0.17, middle + h * 0.55, w * 0.62),
        emblem=(-0.17, middle + 0.12, 0.2),
    )


def _draw_robot(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    head_w, head_h = 0.36 + 0.1 * number(0), 0.26 + 0.07 * number(1)
    body_w, body_h = 0.38 + 0.12 * number(2), 0.30 + 0.05 * number(3)
    head, body = -0.28, 0.38
    for side in (-1, 1):
        pen.part(box(x, y, side * body_w * 0.5, 0.76, 0.10, 0.13, 0.03), paint.second * 0.8)
        shoulder = (side * (body_w + 0.05), body - 0.16)
        hand = (side * (body_w + 0.20), body + 0.20 - 0.5 * number(4))
        pen.part(segment(x, y, shoulder, hand, 0.075), paint.second)
    pen.part(box(x, y, 0.0, body, body_w, body_h, 0.07), paint.surface)
    pen.part(box(x, y, 0.0, head + head_h + 0.06, 0.12, 0.08), paint.second * 0.7)
    antenna = segment(x, y, (0.0, head - head_h), (0.0, head - head_h - 0.2), 0.022)
    pen.part(antenna, (0.38, 0.38, 0.39))
    pen.part(circle(x, y, 0.0, head - head_h - 0.22, 0.075), paint.second)
    pen.part(box(x, y, 0.0, head, head_w, head_h, 0.09), paint.surface)
    for side in (-1, 1):
        pen.part(circle(x, y, side * head_w * 0.45, head - 0.06, 0.10), WHITE, 0.03, 0.3)
        pen.flat(circle(x, y, side * head_w * 0.45, head - 0.06, 0.06), paint.eyes())
    pen.part(box(x, y, 0.0, head + 0.15, head_w * 0.5, 0.045, 0.02), (0.85, 0.88, 0.9), 0.02, 0.3)
    for tooth in (-1, 0, 1):
        pen.flat(box(x, y, head_w * 0.22 * tooth, head + 0.15, 0.012, 0.045), INK)
    return Anchors(
        hat=(0.0, head - head_h + 0.03, head_w * 0.85),
        eyes=(0.0, head - 0.06, head_w * 0.45),
        neck=(0.0, 0.07, 0.38),
        emblem=(0.0, body + 0.04, 0.19),
    )


def _draw_car(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    length, h, roof = 0.78 + 0.10 * number(0), 0.20 + 0.05 * number(1), 0.26 + 0.1 * number(2)
    body = 0.56
    sill, top = body - h, body - h - roof
    cabin = _corners(
        (-0.56 * length, -0.34 * length, 0.28 * length + 0.1 * number(3), 0.62 * length),
        (sill + 0.04, top, top, sill + 0.04),
    )
    pen.part(polygon(x, y, cabin), paint.main * 0.95)
    for a, b in ((-0.42, -0.04), (0.03, 0.40)):
        window = _corners(
            (a * length - 0.01, a * length + 0.09, b * length - 0.02, (b + 0.03) * length),
            (sill - 0.02, top + 0.08, top + 0.08, sill - 0.02),
        )
        pen.part(polygon(x, y, window), _GLASS, 0.02, 0.3)
    pen.part(box(x, y, 0.0, body, length, h, 0.11), paint.surface)
    pen.part(circle(x, y, length - 0.06, body - 0.05, 0.065), (1.0, 0.95, 0.6), 0.02)
    pen.flat(box(x, y, 0.0, body + h * 0.55, length * 0.96, 0.028), paint.second)
    for side in (-1, 1):
        axle = side * length * 0.56
        pen.part(circle(x, y, axle, 0.70, 0.17 + 0.03 * number(4)), (0.14, 0.14, 0.15))
        pen.part(circle(x, y, axle, 0.70, 0.08), paint.second, 0.02)
    return Anchors(
        hat=(0.0, top + 0.04, 0.38),
        eyes=(0.0, body - 0.02, 0.22),
        neck=(0.0, sill + 0.1, 0.5),
        emblem=(0.0, body - 0.01, 0.17),
    )


def _draw_house(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    w, h = 0.52 + 0.12 * number(0), 0.36 + 0.08 * number(1)
    middle = GROUND - h
    eaves, ridge = middle - h, middle - h - 0.42 - 0.14 * number(2)
    pen.part(box(x, y, w * 0.55, eaves - 0.28, 0.08, 0.2), (0.6, 0.3, 0.25))
    pen.part(box(x, y, 0.0, middle, w, h, 0.01), paint.surface, shade=0.5)
    roof = [(-w - 0.16, eaves + 0.03), (0.0 * w, ridge), (w + 0.16, eaves + 0.03)]
    pen.part(polygon(x, y, roof), paint.second, shade=0.7)
    door = w * 0.45 * (2 * torch.floor(number(3) * 2) - 1)
    pen.part(box(x, y, door, GROUND - 0.23, 0.12, 0.22, 0.02), paint.second * 0.7 + 0.05)
    pen.flat(circle(x, y, door + 0.07, 0.64, 0.02), (1.0, 0.9, 0.3))
    pen.part(box(x, y, -door, middle + 0.02, 0.14, 0.13), _GLASS, 0.03, 0.2)
    pen.flat(box(x, y, -door, middle + 0.02, 0.012, 0.13), INK)
    pen.flat(box(x, y, -door, middle + 0.02, 0.14, 0.012), INK)
    return Anchors(
        hat=(0.0, ridge + 0.12, 0.34),
        eyes=(0.0, middle - 0.02, 0.26),
        neck=(0.0, eaves + 0.12, w * 0.8),
        emblem=(0.0, eaves - 0.14, 0.17),
    )


def _draw_rocket(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    w, h = 0.26 + 0.08 * number(0), 0.66 + 0.08 * number(1)
    middle = 0.02
    flame = [(-0.14, 0.55), (-0.05, 0.80), (0.0, 0.98), (0.05, 0.80), (0.14, 0.55)]
    pen.part(polygon(x, y, flame), (1.0, 0.62, 0.1), 0.02)
    pen.flat(polygon(x, y, [(-0.07, 0.55), (0.0, 0.84), (0.07, 0.55)]), (1.0, 0.93, 0.4))
    for side in (-1, 1):
        tip = (side * (w + 0.26 + 0.1 * number(2)), 0.66)
        pen.part(polygon(x, y, [(side * w * 0.7, 0.12), tip, (side * w * 0.6, 0.56)]), paint.second)
    body = torch.maximum(ellipse(x, y, 0.0, middle, w, h + 0.14), y - 0.58)
    pen.part(body, paint.surface)
    pen.part(torch.maximum(body, y - (middle - h * 0.52)), paint.second)
    pen.part(circle(x, y, 0.0, middle - 0.10, 0.13 + 0.03 * number(3)), _GLASS, 0.04)
    return Anchors(
        hat=(0.0, middle - h + 0.04, 0.3),
        eyes=(0.0, middle - 0.10, 0.15),
        neck=(0.0, middle + 0.30, w),
        emblem=(0.0, middle + 0.31, 0.16),
    )


def _draw_backpack(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    w, h = 0.46 + 0.10 * number(0), 0.56 + 0.08 * number(1)
    middle = GROUND - h
    top = middle - h
    pen.part(box(x, y, 0.0, top - 0.02, 0.16, 0.12, 0.1).abs() - 0.035, paint.second * 0.8)
    for side in (-1, 1):
        pen.part(box(x, y, side * (w + 0.04), middle + 0.25, 0.09, 0.22, 0.06), paint.second * 0.85)
    lower = box(x, y, 0.0, middle + 0.1, w, h - 0.1, 0.1)
    upper = ellipse(x, y, 0.0, middle - 0.12, w, h - 0.12)
    pen.part(torch.minimum(lower, upper), paint.surface)
    zip_line = ellipse(x, y, 0.0, middle - 0.1, w * 0.78, h * 0.62).abs() - 0.016
    pen.flat(torch.maximum(zip_line, y - (middle - 0.12)), INK, 0.8)
    pen.part(box(x, y, 0.0, GROUND - 0.30, w * 0.70, 0.22 + 0.04 * number(2), 0.07), paint.second)
    pen.flat(box(x, y, 0.0, GROUND - 0.40, w * 0.62, 0.014), INK, 0.8)
    pen.part(box(x, y, w * 0.35, GROUND - 0.37, 0.02, 0.05), (0.9, 0.9, 0.85), 0.012)
    return Anchors(
        hat=(0.0, top + 0.06, w * 0.7),
        eyes=(0.0, middle - 0.22, w * 0.45),
        neck=(0.0, middle + 0.05, w),
        emblem=(0.0, middle - 0.2, 0.2),
    )


THINGS: dict[str, Kind] = {
    "mug": Kind(_draw_mug, 0.20),
    "teapot": Kind(_draw_teapot, 0.38),
    "ball": Kind(_draw_ball, 0.16),
    "box": Kind(_draw_box, 0.27),
    "robot": Kind(_draw_robot, 0.08),
    "car": Kind(_draw_car, 0.53),
    "house": Kind(_draw_house, 0.45),
    "rocket": Kind(_draw_rocket, 0.10),
    "backpack": Kind(_draw_backpack, 0.20),
}
