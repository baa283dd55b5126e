"""Kinds that the embedded models never saw: new things, and known ones with a new part.

They make the embedded few-shot set: no caption of the toy world names any of them.
"""

from nora_studio.mini.world.animals import ANIMAL_KINDS
from nora_studio.mini.world.new_things import NEW_THINGS, broadcast_points
from nora_studio.mini.world.objects import THINGS, Anchors, Kind, Paint
from nora_studio.mini.world.pen import WHITE, Pen
from nora_studio.mini.world.shapes import polygon, segment


def _add_wings(kind: Kind) -> Kind:
    """Return a kind with two feathered wings behind it."""

    def draw(pen: Pen, paint: Paint) -> Anchors:
        x, y = pen.x, pen.y
        for side in (-1, 1):
            for feather in range(3):
                tip = (side * (0.98 - 0.06 * feather), -0.52 + 0.34 * feather)
                pen.part(segment(x, y, (side * 0.3, 0.3), tip, 0.13), WHITE, 0.03, 0.5)
        return kind.draw(pen, paint)

    return Kind(draw, kind.middle)


def _add_horns(kind: Kind) -> Kind:
    """Return a kind with two long horns on its head."""

    def draw(pen: Pen, paint: Paint) -> Anchors:
        anchors = kind.draw(pen, paint)
        hat_x, hat_y, _ = anchors.hat
        for side in (-1, 1):
            inner = (hat_x + side * 0.08, hat_y + 0.06)
            outer = (hat_x + side * 0.26, hat_y + 0.08)
            tip = (hat_x + side * 0.46, hat_y - 0.46)
            pen.part(
                polygon(pen.x, pen.y, broadcast_points([inner, outer, tip], pen)),
                (0.96, 0.90, 0.72),
            )
        return anchors

    return Kind(draw, kind.middle)


_OLD = {name: (THINGS | ANIMAL_KINDS)[name] for name in ("cat", "robot", "mug", "house")}

NEWCOMERS: dict[str, Kind] = {
    **NEW_THINGS,
    **{f"winged {name}": _add_wings(kind) for name, kind in _OLD.items()},
    **{f"horned {name}": _add_horns(kind) for name, kind in _OLD.items()},
}
"""The kinds in the embedded few-shot set, by class name."""
