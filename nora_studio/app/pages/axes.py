"""Axes of the charts: the position of a value, and the values of the labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MAX_TICKS = 6
_MARGIN = 0.06
"""Margin beyond the outermost values, as a share of their distance."""


@dataclass(frozen=True)
class Axis:
    """A range of numbers on a linear or logarithmic axis."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def spanning(cls, values: Sequence[float], log: bool = False, tight: bool = False) -> "Axis":
        """Return the axis that spans some values, with a margin around them.

        Args:
            values: Finite, at least one; above zero for a logarithmic axis.
            tight: No margin: the outermost values are at the ends.
        """
        low, high = min(values), max(values)
        ends = (math.log10(low), math.log10(high)) if log else (low, high)
        room = (ends[1] - ends[0]) * (0.0 if tight else _MARGIN)
        if ends[0] == ends[1]:  # A single value is in the middle.
            room = 0.1 if log else abs(low) * 0.1 or 1.0
        ends = ends[0] - room, ends[1] + room
        return cls(10 ** ends[0], 10 ** ends[1], log) if log else cls(*ends)

    def percent(self, value: float) -> float:
        """Return a value's position on the axis: 0 at its low end, 100 at its high end."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return 100 * (self._scaled(value) - low) / (high - low)

    @property
    def ticks(self) -> list[float]:
        """Round values on the axis, three to six if possible."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                ticks = self._in_range([d * 10.0**decade for decade in decades for d in digits])
                if 3 <= len(ticks) <= _MAX_TICKS:
                    return ticks
            if len(decades) > _MAX_TICKS:
                apart = math.ceil(len(decades) / _MAX_TICKS)
                return self._in_range([10.0**decade for decade in decades[::apart]])
        step = _round_step((self.high - self.low) / (_MAX_TICKS - 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [float(f"{number * step:.10g}") for number in range(first, last + 1)]

    @property
    def whole_ticks(self) -> list[float]:
        """The ticks that are whole numbers, for steps."""
        return [tick for tick in self.ticks if tick == round(tick)]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def _in_range(self, values: list[float]) -> list[float]:
        return [value for value in values if self.low <= value * (1 + 1e-9) <= self.high]


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is at least a distance."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((n * power for n in (1, 2, 5) if n * power >= least * (1 - 1e-9)), 10 * power)


def format_number(value: float) -> str:
    """Format a number for a label: thousands separated, no trailing zeros."""
    return f"{value:,.10g}".replace("-", "−")
