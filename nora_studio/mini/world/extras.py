"""Emblems painted on things, and accessories."""

from collections.abc import Callable

import torch
from torch import Tensor

from nora_studio.mini.world.objects import Anchors
from nora_studio.mini.world.pen import INK, WHITE, Pen
from nora_studio.mini.world.shapes import Number, box, circle, flower, heart, polygon, segment, star

_GOLD = (0.98, 0.80, 0.15)
_EMBLEM_GROWTH = 1.25


def draw_emblem(name: str, pen: Pen, anchors: Anchors, accent: Tensor) -> None:
    """Paint an emblem with a pale rim, so that it stands out on any pattern."""
    x, y, size = anchors.emblem
    size = _EMBLEM_GROWTH * size
    outline = {"star": star, "heart": heart, "flower": flower}[name]
    distance = outline(pen.x, pen.y, x, y, size)
    pen.part(distance - 0.035, WHITE, 0.022, 0.0)
    pen.flat(distance, accent)
    if name == "flower":
        pen.flat(circle(pen.x, pen.y, x, y, 0.27 * size), WHITE)
        pen.flat(circle(pen.x, pen.y, x, y, 0.22 * size), accent * 0.4)


def _draw_hat(pen: Pen, anchors: Anchors, accent: Tensor) -> None:
    x, y, (hat_x, hat_y, width) = pen.x, pen.y, anchors.hat
    k = _hat_scale(pen, width)
    pen.part(box(x, y, hat_x, hat_y - 0.20 * k, 0.22 * k, 0.22 * k, 0.04), accent)
    pen.flat(box(x, y, hat_x, hat_y - 0.07 * k, 0.215 * k, 0.045 * k), INK)
    pen.part(box(x, y, hat_x, hat_y, 0.38 * k, 0.055, 0.05), accent)


def _draw_crown(pen: Pen, anchors: Anchors, accent: Tensor) -> None:
    hat_x, hat_y, width = anchors.hat
    k = _hat_scale(pen, width)
    points = [
        (hat_x - 0.30 * k, hat_y + 0.06),
        (hat_x - 0.34 * k, hat_y - 0.30 * k),
        (hat_x - 0.15 * k, hat_y - 0.12 * k),
        (hat_x + 0.00 * k, hat_y - 0.36 * k),
        (hat_x + 0.15 * k, hat_y - 0.12 * k),
        (hat_x + 0.34 * k, hat_y - 0.30 * k),
        (hat_x + 0.30 * k, hat_y + 0.06),
    ]
    pen.part(polygon(pen.x, pen.y, points), _GOLD)
    for i in (-1, 0, 1):
        pen.flat(circle(pen.x, pen.y, hat_x + i * 0.18 * k, hat_y - 0.02, 0.04), accent)


def _draw_scarf(pen: Pen, anchors: Anchors, accent: Tensor) -> None:
    x, y, (neck_x, neck_y, width) = pen.x, pen.y, anchors.neck
    knot = (neck_x + width * 0.45, neck_y + 0.04)
    end = (neck_x + width * 0.58, neck_y + 0.36)
    pen.part(segment(x, y, knot, end, 0.075), accent * 0.88)
    sagging = y + 0.25 * (x - neck_x) ** 2
    pen.part(box(x, sagging, neck_x, neck_y, width + 0.05, 0.085, 0.08), accent)


def _draw_glasses(pen: Pen, anchors: Anchors, accent: Tensor) -> None:
    x, y, (eyes_x, eyes_y, apart) = pen.x, pen.y, anchors.eyes
    radius = (_tensor(pen, apart) * 0.62).clamp(0.09, 0.19)
    frame = 0.75 * accent
    for side in (-1, 1):
        lens = circle(x, y, eyes_x + side * apart, eyes_y, radius)
        pen.flat(lens, (0.8, 0.93, 1.0), 0.35)
        pen.flat(lens.abs() - 0.034, frame)
    left, right = eyes_x - apart + radius, eyes_x + apart - radius
    pen.flat(segment(x, y, (left, eyes_y), (right, eyes_y), 0.026), frame)


def _draw_bow_tie(pen: Pen, anchors: Anchors, accent: Tensor) -> None:
    x, y, (neck_x, neck_y, _) = pen.x, pen.y, anchors.neck
    for side in (-1, 1):
        wing_x = neck_x + side * 0.24
        wing = [(neck_x, neck_y), (wing_x, neck_y - 0.14), (wing_x, neck_y + 0.14)]
        pen.part(polygon(x, y, wing), accent)
    pen.part(circle(x, y, neck_x, neck_y, 0.06), accent * 0.8)


def _tensor(pen: Pen, value: Number) -> Tensor:
    return torch.as_tensor(value, device=pen.canvas.device, dtype=pen.canvas.dtype)


def _hat_scale(pen: Pen, width: Number) -> Tensor:
    return (_tensor(pen, width) / 0.4).clamp(0.7, 1.2)


WORN: dict[str, Callable[[Pen, Anchors, Tensor], None]] = {
    "hat": _draw_hat,
    "crown": _draw_crown,
    "scarf": _draw_scarf,
    "glasses": _draw_glasses,
    "bow tie": _draw_bow_tie,
}
