"""A line chart in plain HTML and SVG: sharp at every width, in the page's colours, no script."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from nora_studio.app.pages.axes import Axis, format_number
from nora_studio.app.pages.escaping import escaped
from nora_studio.runs.curves import thinned

_MAX_POINTS = 400
"""Points of a line; more than there are pixels would only make the page larger."""
_MAX_COLUMNS = 120
"""Strips that show values under the pointer."""
_DASHES = {"solid": "", "dashed": "7 5", "dotted": "1.5 5"}

Colour = Literal["nora", "lora", "base", "accent", "ink", "soft"]
Stroke = Literal["solid", "dashed", "dotted"]
LinePoint = tuple[float, float]
"""(step, value)."""


@dataclass(frozen=True)
class Series:
    """One line."""

    label: str
    points: Sequence[LinePoint]
    """Points in the order of their steps."""
    colour: Colour = "ink"
    """A variable of the page's theme."""
    line: Stroke = "solid"
    """Lines should differ in this as well, for readers who cannot distinguish the colours."""


def line_chart(
    series: Sequence[Series],
    *,
    title: str = "Loss over steps",
    log: bool = False,
    smoothing: float = 0.0,
    empty: str = "No numbers yet. The first ones come after a few steps.",
) -> str:
    """Draw lines over steps, with axes, a key, and the values under the pointer.

    With smoothing, the raw values are shown faintly behind; the axis fits the smoothed lines, so
    that one outlier does not flatten all others.

    Args:
        title: The heading, also for screen readers.
        log: Use a logarithmic value axis; values of zero and below are left out.
        smoothing: Share of the past in an exponential moving average, 0 (none) to below 1.
        empty: The text that is shown before the first value.

    Returns:
        One element, which has the same height with and without values; styled by `line_chart.css`.
    """
    raw = [_clean(one.points, log) for one in series]
    shown = [smooth_line(points, smoothing) for points in raw]
    every = [point for points in shown for point in points]
    if not every:
        return (
            f'<figure class="chart"><figcaption>{escaped(title)}</figcaption>'
            f'<div class="plot empty"><p>{escaped(empty)}</p></div><ul class="key"></ul>'
            "</figure>"
        )
    steps = Axis.spanning([step for step, _ in every], tight=True)
    values = Axis.spanning([value for _, value in every], log)
    lines = []
    if smoothing:
        lines = [
            _path(p, steps, values, one, "raw") for one, p in zip(series, raw, strict=True) if p
        ]
    lines += [
        _path(p, steps, values, one, "line") for one, p in zip(series, shown, strict=True) if p
    ]
    return (
        f'<figure class="chart"><figcaption>{escaped(title)}</figcaption>'
        f'<div class="plot" role="img" aria-label="{escaped(_description(title, series, shown))}">'
        f"{_labels(steps, values)}"
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(lines)}</svg>{_columns(series, shown, steps, values)}</div>"
        f"{_key(series, shown)}</figure>"
    )


def smooth_line(points: Sequence[LinePoint], smoothing: float) -> list[LinePoint]:
    """Smooth a line by an exponential moving average without bias towards its start.

    Source: Kingma & Ba, arXiv 1412.6980, 3: the average divided by the sum of its weights.
    """
    average, weight, smooth = 0.0, 0.0, []
    for step, value in points:
        average = smoothing * average + (1 - smoothing) * value
        weight = smoothing * weight + (1 - smoothing)
        smooth.append((step, average / weight))
    return smooth


def _clean(points: Sequence[LinePoint], log: bool) -> list[LinePoint]:
    return [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)]


def _path(points: list[LinePoint], steps: Axis, values: Axis, one: Series, kind: str) -> str:
    places = [
        f"{10 * steps.percent(x):.1f} {1000 - 10 * values.percent(y):.1f}"
        for x, y in thinned(points, _MAX_POINTS)
    ]
    # A line from a point to itself shows a dot.
    path_data = "M" + "L".join(places if len(places) > 1 else places * 2)
    dashes = f' stroke-dasharray="{_DASHES[one.line]}"' if _DASHES[one.line] else ""
    return f'<path class="{kind}" d="{path_data}" style="stroke:var(--{one.colour})"{dashes}/>'


def _labels(steps: Axis, values: Axis) -> str:
    """Return both axes' numbers, and a faint horizontal line at each value."""
    across = "".join(
        f'<span class="y" style="bottom:{values.percent(tick):.2f}%">{format_number(tick)}</span>'
        f'<hr style="bottom:{values.percent(tick):.2f}%">'
        for tick in values.ticks
    )
    along = "".join(
        f'<span class="x" style="left:{steps.percent(tick):.2f}%">{format_number(tick)}</span>'
        for tick in steps.whole_ticks
    )
    return f"{across}{along}"


def _columns(
    series: Sequence[Series], shown: Sequence[list[LinePoint]], steps: Axis, values: Axis
) -> str:
    """Return vertical strips that show every line's nearest value under the pointer."""
    measured = sorted({step for points in shown for step, _ in points})
    places = thinned([(step, 0.0) for step in measured], _MAX_COLUMNS)
    centres = [steps.percent(step) for step, _ in places]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(centres)), 100.0]
    strips = []
    for (step, _), centre, left, right in zip(places, centres, edges, edges[1:], strict=False):
        dots, rows = [], []
        for one, points in zip(series, shown, strict=True):
            point = _nearest(points, step)
            if point is None or not left <= steps.percent(point[0]) <= right:
                continue
            place = f"bottom:{values.percent(point[1]):.2f}%;background:var(--{one.colour})"
            dots.append(f'<i style="{place}"></i>')
            name = f"<span>{_swatch(one)}{escaped(one.label)}</span>"
            rows.append(f"<div>{name}{point[1]:.4g}</div>")
        side = "after" if centre < 50 else "before"
        strips.append(
            f'<div class="at" style="--at:{centre:.2f}%;width:{right - left:.3f}%"><b></b>'
            f'{"".join(dots)}<div class="read {side}"><em>step {format_number(step)}</em>'
            f"{''.join(rows)}</div></div>"
        )
    return f'<div class="strips" aria-hidden="true">{"".join(strips)}</div>'


def _nearest(points: list[LinePoint], step: float) -> LinePoint | None:
    place = bisect_left(points, step, key=lambda point: point[0])
    neighbours = points[max(0, place - 1) : place + 1]
    return min(neighbours, key=lambda point: abs(point[0] - step), default=None)


def _swatch(one: Series) -> str:
    dashes = f' stroke-dasharray="{_DASHES[one.line]}"' if _DASHES[one.line] else ""
    return (
        '<svg class="swatch" width="24" height="8" aria-hidden="true"><path d="M1 4H23" '
        f'style="stroke:var(--{one.colour})"{dashes}/></svg>'
    )


def _key(series: Sequence[Series], shown: Sequence[list[LinePoint]]) -> str:
    """Return the legend, with each line's last value."""
    rows = [
        f"<li>{_swatch(one)}{escaped(one.label)}"
        f"{f' <b>{points[-1][1]:.4g}</b>' if points else ''}</li>"
        for one, points in zip(series, shown, strict=True)
    ]
    return f'<ul class="key">{"".join(rows)}</ul>'


def _description(title: str, series: Sequence[Series], shown: Sequence[list[LinePoint]]) -> str:
    """Describe the chart in words, for screen readers."""
    lines = [
        f"{one.label} from {points[0][1]:.4g} at step {format_number(points[0][0])} to "
        f"{points[-1][1]:.4g} at step {format_number(points[-1][0])}"
        for one, points in zip(series, shown, strict=True)
        if points
    ]
    return f"{title}: {'; '.join(lines)}."
