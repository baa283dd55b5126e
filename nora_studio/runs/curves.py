"""A measured loss over the steps: which was its best, and when going on is of no more use."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeVar

LOSSES = ("held_out_loss", "fixed_loss")
"""Names in the log of the losses that compare from step to step; the first there is counts."""
PLATEAU_SHARE = 0.005
"""A measurement improves on another only if it is lower by more than this share of it."""

Item = TypeVar("Item")


class Point(NamedTuple):
    """One measurement."""

    step: int
    loss: float


@dataclass
class Curve:
    """Measurements of one run after its steps, in order. The bare base, step 0, is none of them."""

    points: list[Point] = field(default_factory=list)

    @classmethod
    def of_log(cls, rows: Iterable[Mapping[str, Any]]) -> "Curve":
        """The curve that a run's log holds."""
        curve = cls()
        for row in rows:
            curve.note(row["step"], row)
        return curve

    def note(self, step: int, measured: Mapping[str, Any]) -> None:
        """Add the loss among some measured values, if one is there."""
        loss = next((measured[name] for name in LOSSES if name in measured), None)
        if loss is not None and step > 0:
            # Rounded as in the log, from which a resumed run reads its curve.
            self.points.append(Point(step, round(loss, 6) if math.isfinite(loss) else math.inf))

    def best(self, among: Container[int]) -> Point | None:
        """The lowest point of some steps, the first of equals; None where none was measured."""
        points = [point for point in self.points if point.step in among]
        return min(points, key=lambda point: point.loss, default=None)

    def ends_at(self, rule: str, patience: int) -> int | None:
        """The first step at which a rule would have ended the run; None: not yet.

        Args:
            rule: "plateau": none of the last `patience` losses is lower than the best before them
                by more than `PLATEAU_SHARE`. "overfit": each of them is above the best before them
                by more than `noise`. "none".
            patience: At least 1.
        """
        losses = [point.loss for point in self.points]
        for count in range(patience + 1, len(losses) + 1):
            before, latest = losses[: count - patience], losses[count - patience : count]
            if rule == "plateau" and min(latest) >= min(before) * (1 - PLATEAU_SHARE):
                return self.points[count - 1].step
            if rule == "overfit" and min(latest) > min(before) + noise(losses[:count]):
                return self.points[count - 1].step
        return None


def noise(losses: list[float]) -> float:
    """Standard deviation of a curve's jitter about its own trend; 0 for fewer than three points.

    From the median of its absolute second differences, which are 0 on a straight line, sqrt(6)
    sigma wide on white noise, and large at a single turn, where the median does not look.
    """
    bends = [abs(a - 2 * b + c) for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)]
    return median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of some items, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    apart = (len(items) - 1) / (most - 1)
    return [items[round(place * apart)] for place in range(most)]
