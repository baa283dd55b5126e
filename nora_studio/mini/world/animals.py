"""Animals, drawn like the things in `objects`."""

from torch import Tensor

from nora_studio.mini.world.objects import Anchors, Kind, Paint
from nora_studio.mini.world.pen import INK, PINK, WHITE, Color, Pen
from nora_studio.mini.world.shapes import Number, circle, ellipse, polygon, segment

_HEAD = -0.22  # height of a sitting animal's head
_BEAK = (0.98, 0.60, 0.10)


def _draw_cat(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    a, b, body_w = _proportions(paint)
    pen.part(segment(x, y, (0.3, 0.7), (0.72, 0.25 + 0.2 * number(3)), 0.075), paint.main)
    pen.part(ellipse(x, y, 0.0, 0.48, body_w, 0.40), paint.surface)
    ear_top = _HEAD - b - 0.22 - 0.14 * number(4)
    for side in (-1, 1):
        pen.part(ellipse(x, y, side * body_w * 0.5, 0.80, 0.14, 0.09), paint.main * 0.97)
        base = (side * a * 0.12, _HEAD - b * 0.75)
        ear = [(side * a * 0.95, _HEAD - 0.02), (side * a * 0.80, ear_top), base]
        pen.part(polygon(x, y, ear), paint.main, 0.035)
        base = (side * a * 0.3, _HEAD - b * 0.75)
        inner = [(side * a * 0.8, _HEAD - 0.16), (side * a * 0.74, ear_top + 0.12), base]
        pen.flat(polygon(x, y, inner), PINK)
    pen.part(ellipse(x, y, 0.0, _HEAD, a, b), paint.surface)
    _draw_eyes(pen, a * 0.42, _HEAD - 0.02, 0.105, paint.eyes(), 0.5)
    for side in (-1, 1):
        for lift in (-0.08, 0.05):
            tip = (side * (a + 0.14), _HEAD + 0.17 + lift)
            pen.flat(segment(x, y, (side * 0.16, _HEAD + 0.19), tip, 0.011), INK)
    pen.part(ellipse(x, y, 0.0, _HEAD + 0.20, 0.14, 0.09), _lighter(pen, paint, 0.6), 0.015, 0.4)
    nose = [(-0.06, _HEAD + 0.13), (0.06, _HEAD + 0.13), (0.0, _HEAD + 0.20)]
    pen.flat(polygon(x, y, nose), PINK)
    return _sitting_anchors(a, b)


def _draw_dog(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    a, b, body_w = _proportions(paint)
    pen.part(segment(x, y, (0.3, 0.65), (0.66, 0.40 - 0.2 * number(3)), 0.07), paint.main)
    pen.part(ellipse(x, y, 0.0, 0.48, body_w, 0.40), paint.surface)
    for side in (-1, 1):
        pen.part(ellipse(x, y, side * body_w * 0.5, 0.80, 0.15, 0.09), paint.main * 0.97)
    pen.part(ellipse(x, y, 0.0, _HEAD, a, b), paint.surface)
    for side in (-1, 1):
        leaning = x * 0.95 - side * 0.18 * (y - _HEAD)
        width, height = 0.15 + 0.05 * number(4), 0.34 + 0.08 * number(5)
        ear = ellipse(leaning, y, side * a * 0.92, _HEAD + 0.02, width, height)
        pen.part(ear, paint.second * 0.85)
    _draw_eyes(pen, a * 0.36, _HEAD - 0.08, 0.09, paint.eyes(), 0.55)
    pen.part(ellipse(x, y, 0.0, _HEAD + 0.19, 0.21, 0.16), _lighter(pen, paint, 0.7), 0.02, 0.5)
    pen.flat(ellipse(x, y, 0.0, _HEAD + 0.29, 0.06, 0.10), PINK)
    pen.flat(ellipse(x, y, 0.0, _HEAD + 0.11, 0.085, 0.06), INK)
    return _sitting_anchors(a, b)


def _draw_bear(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    a, b, body_w = _proportions(paint)
    pen.part(ellipse(x, y, 0.0, 0.46, body_w + 0.05, 0.42), paint.surface)
    pen.part(ellipse(x, y, 0.0, 0.50, body_w * 0.6, 0.26), paint.second, 0.015, 0.5)
    for side in (-1, 1):
        pen.part(ellipse(x, y, side * (body_w + 0.04), 0.30, 0.12, 0.2), paint.main)
        pen.part(ellipse(x, y, side * body_w * 0.75, 0.80, 0.17, 0.12), paint.main)
        ear_x, ear_y = side * a * 0.78, _HEAD - b * 0.78
        pen.part(circle(x, y, ear_x, ear_y, 0.16 + 0.05 * number(4)), paint.main)
        pen.flat(circle(x, y, ear_x, ear_y, 0.09), paint.second)
    pen.part(ellipse(x, y, 0.0, _HEAD, a, b), paint.surface)
    _draw_eyes(pen, a * 0.4, _HEAD - 0.06, 0.07, None, 0.75)
    pen.part(ellipse(x, y, 0.0, _HEAD + 0.17, 0.2, 0.14), paint.second, 0.02, 0.5)
    pen.flat(ellipse(x, y, 0.0, _HEAD + 0.11, 0.075, 0.055), INK)
    return _sitting_anchors(a, b)


def _draw_duck(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    a, b = 0.56 + 0.08 * number(0), 0.36 + 0.06 * number(1)
    head_x, head_r = 0.30, 0.27 + 0.05 * number(2)
    tail = [(-a * 0.8, 0.42), (-a - 0.22, 0.18 - 0.1 * number(3)), (-a * 0.3, 0.24)]
    pen.part(polygon(x, y, tail), paint.main)
    cheek = head_x + head_r * 0.7
    beak = [(cheek, _HEAD - 0.05), (head_x + head_r + 0.26, _HEAD + 0.06), (cheek, _HEAD + 0.15)]
    pen.part(polygon(x, y, beak), _BEAK)
    pen.part(ellipse(x, y, 0.0, 0.47, a, b), paint.surface)
    pen.part(circle(x, y, head_x, _HEAD, head_r), paint.main)
    pen.flat(ellipse(x, y, head_x - 0.02, 0.10, head_r * 0.75, 0.16), paint.main)
    pen.part(ellipse(x, y, -0.14, 0.45, 0.28 + 0.06 * number(4), 0.17), paint.second, 0.025)
    pen.flat(ellipse(x, y, head_x + 0.08, _HEAD - 0.06, 0.055, 0.07), INK)
    pen.flat(circle(x, y, head_x + 0.06, _HEAD - 0.09, 0.02), WHITE)
    return Anchors(
        hat=(head_x - 0.02, _HEAD - head_r + 0.03, 0.26),
        eyes=(head_x + 0.05, _HEAD - 0.05, 0.13),
        neck=(head_x - 0.02, 0.06, 0.24),
        emblem=(-0.12, 0.48, 0.17),
    )


def _draw_fish(pen: Pen, paint: Paint) -> Anchors:
    x, y, number = pen.x, pen.y, paint.number
    a, b, middle = 0.54 + 0.08 * number(0), 0.36 + 0.10 * number(1), 0.35
    tail = [
        (-a * 0.75, middle + 0.0 * a),
        (-a - 0.34, middle - 0.32 - 0.08 * number(2)),
        (-a - 0.20, middle + 0.0 * a),
        (-a - 0.34, middle + 0.32 + 0.0 * a),
    ]
    pen.part(polygon(x, y, tail), paint.second)
    fin_top = middle - b - 0.24 * number(3) - 0.08
    pen.part(
        polygon(x, y, [(-0.28, middle - b * 0.7), (-0.1, fin_top), (0.25, middle - b * 0.75)]),
        paint.second,
    )
    pen.part(ellipse(x, y, 0.0, middle, a, b), paint.surface)
    fin = [(-0.02, middle + 0.06), (-0.30, middle + 0.24), (-0.08, middle + 0.26)]
    pen.part(polygon(x, y, fin), paint.second, 0.02)
    pen.part(circle(x, y, a * 0.55, middle - 0.10, 0.11), WHITE, 0.022, 0.3)
    pen.flat(circle(x, y, a * 0.55 + 0.03, middle - 0.10, 0.06), INK)
    pen.flat(segment(x, y, (a * 0.72, middle + 0.13), (a * 0.9, middle + 0.10), 0.014), INK)
    return Anchors(
        hat=(a * 0.2, middle - b + 0.04, 0.32),
        eyes=(a * 0.55, middle - 0.10, 0.14),
        neck=(a * 0.1, middle + b * 0.8, 0.2),
        emblem=(-0.16, middle - 0.04, 0.17),
    )


def _proportions(paint: Paint) -> tuple[Tensor, Tensor, Tensor]:
    """Return half the head's width and height, and half the body's width: each (count, 1, 1)."""
    number = paint.number
    return 0.46 + 0.10 * number(0), 0.40 + 0.08 * number(1), 0.36 + 0.10 * number(2)


def _sitting_anchors(head_w: Tensor, head_h: Tensor) -> Anchors:
    return Anchors(
        hat=(0.0, _HEAD - head_h + 0.04, head_w * 0.72),
        eyes=(0.0, _HEAD - 0.04, head_w * 0.42),
        neck=(0.0, 0.16, 0.36),
        emblem=(0.0, 0.50, 0.19),
    )


def _lighter(pen: Pen, paint: Paint, amount: float) -> Tensor:
    return paint.main + (pen.color(WHITE) - paint.main) * amount


def _draw_eyes(
    pen: Pen, apart: Number, height: float, radius: float, iris: Color | None, pupil: float
) -> None:
    x, y = pen.x, pen.y
    for side in (-1, 1):
        eye_x = side * apart
        pen.part(ellipse(x, y, eye_x, height, radius, radius * 1.12), WHITE, 0.022, 0.3)
        if iris is not None:
            pen.flat(circle(x, y, eye_x, height + 0.01, radius * 0.8), iris)
        pen.flat(circle(x, y, eye_x, height + 0.01, radius * pupil), INK)
        glint_x, glint_y = eye_x - radius * 0.25, height - radius * 0.25
        pen.flat(circle(x, y, glint_x, glint_y, radius * 0.24), WHITE)


ANIMAL_KINDS: dict[str, Kind] = {
    "cat": Kind(_draw_cat, 0.12),
    "dog": Kind(_draw_dog, 0.12),
    "bear": Kind(_draw_bear, 0.12),
    "duck": Kind(_draw_duck, 0.47),
    "fish": Kind(_draw_fish, 0.35),
}
