"""A measured loss over the steps: its best point, and the step at which to stop early."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeVar

LOSSES = ("held_out_loss", "fixed_loss")
"""Names in the log of the losses that are comparable between steps; the first present counts."""
PLATEAU_SHARE = 0.005
"""A measurement improves on another only if it is lower by more than this share of it."""

Item = TypeVar("Item")


class LossPoint(NamedTuple):
    """A loss measured after a step."""

    step: int
    loss: float


@dataclass
class Curve:
    """The losses measured in one run, by step. The base's loss, at step 0, is left out."""

    points: list[LossPoint] = field(default_factory=list)

    @classmethod
    def of_log(cls, rows: Iterable[Mapping[str, Any]]) -> "Curve":
        """Read the curve from a run's log."""
        curve = cls()
        for row in rows:
            curve.note(row["step"], row)
        return curve

    def note(self, step: int, measured: Mapping[str, Any]) -> None:
        """Add the loss of a step, if the measured values hold one."""
        loss = next((measured[name] for name in LOSSES if name in measured), None)
        if loss is not None and step > 0:
            # Rounded as in the log, from which a resumed run reads its curve.
            self.points.append(LossPoint(step, round(loss, 6) if math.isfinite(loss) else math.inf))

    def best(self, among: Container[int]) -> LossPoint | None:
        """Return the lowest point among some steps, the first of equals; None if there is none."""
        points = [point for point in self.points if point.step in among]
        return min(points, key=lambda point: point.loss, default=None)

    def ends_at(self, rule: str, patience: int) -> int | None:
        """Return the first step at which a rule would have ended the run; None if it would not.

        Args:
            rule: "plateau": none of the last `patience` losses is lower than the best before them
                by more than `PLATEAU_SHARE`. "overfit": each of them is above the best before them
                by more than `noise`. "none": never.
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
    """Estimate the standard deviation of a curve's noise about its trend; 0 for under three points.

    Computed from the median of the absolute second differences. These are 0 on a straight line and
    have a standard deviation of sqrt(6) sigma on white noise; a single bend makes few of them
    large, which does not change the median.
    """
    bends = [abs(a - 2 * b + c) for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)]
    return median(bends) / (0.6745 * math.sqrt(6)) if bends else 0.0


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` of some items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return list(items)
    spacing = (len(items) - 1) / (most - 1)
    return [items[round(place * spacing)] for place in range(most)]
