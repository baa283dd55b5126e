"""A chart shows each value in its place and in words, and labels are never markup."""

import math
import re

import pytest

from nora_studio.app.pages.axes import Axis, format_number
from nora_studio.app.pages.line_chart import Series, line_chart, smooth_line

FALLING = [(10 * n, 0.5 * 0.9**n) for n in range(41)]


def places(chart: str, kind: str = "line") -> list[list[tuple[float, float]]]:
    """Every drawn line's points, in percent of the plot: from the left, from the bottom."""
    found = re.findall(rf'<path class="{kind}" d="M([^"]+)"', chart)
    points = [[tuple(map(float, pair.split())) for pair in path.split("L")] for path in found]
    return [[(x / 10, 100 - y / 10) for x, y in path] for path in points]


def test_values_lie_where_the_axis_says_straight_and_logarithmic():
    for log in (False, True):
        axis = Axis.spanning([value for _, value in FALLING], log)
        (line,) = places(line_chart([Series("NoRA", FALLING)], log=log))
        for (x, y), (step, value) in zip(line, FALLING, strict=True):
            assert x == pytest.approx(step / 4, abs=0.02)
            assert y == pytest.approx(axis.percent(value), abs=0.02)
    bends = [a[1] - 2 * b[1] + c[1] for a, b, c in zip(line, line[1:], line[2:], strict=False)]
    assert max(map(abs, bends)) < 0.05  # An exponential is straight on a logarithmic axis.


def test_every_line_keeps_within_the_plot_and_ends_at_its_last_value():
    long = [(n, 1 / (1 + n)) for n in range(5000)]
    short = [(n, 0.3) for n in range(0, 1000, 50)]
    first, second = places(line_chart([Series("long", long), Series("short", short)]))
    assert len(first) <= 400
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in first + second)
    assert first[-1][0] == 100
    assert second[-1][0] == pytest.approx(950 / 4999 * 100, abs=0.02)


def test_smoothing_is_the_bias_corrected_moving_average():
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    found = smooth_line(list(enumerate(values)), 0.6)
    for n in range(len(values)):
        weights = [0.6 ** (n - i) for i in range(n + 1)]
        expected = math.fsum(w * v for w, v in zip(weights, values, strict=False)) / math.fsum(
            weights
        )
        assert found[n] == pytest.approx((n, expected))
    assert smooth_line(FALLING, 0.0) == FALLING


def test_one_outlier_does_not_flatten_a_smoothed_line():
    wild = [(n, 1000.0 if n == 20 else 1.0 + n / 40) for n in range(41)]
    calm = line_chart([Series("loss", wild)], smoothing=0.9)
    (raw,), (line,) = places(calm, "raw"), places(calm)
    assert max(y for _, y in raw) > 300  # Out of the plot, which shows what lies within.
    assert max(y for _, y in line) - min(y for _, y in line) > 80
    assert not places(line_chart([Series("loss", wild)]), "raw")


def test_values_outside_a_logarithmic_axis_are_left_out():
    points = [(0, 0.0), (1, -1.0), (2, math.nan), (3, math.inf), (4, 0.5), (5, 0.25)]
    (line,) = places(line_chart([Series("loss", points)], log=True))
    assert len(line) == 2
    (line,) = places(line_chart([Series("loss", points)]))
    assert len(line) == 4


@pytest.mark.parametrize("points", [[], [(0, math.nan)]])
def test_without_a_value_the_chart_says_when_values_come(points):
    page = line_chart([Series("loss", points)], empty="Numbers come at step 10.")
    assert "Numbers come at step 10." in page
    assert "<svg" not in page.split("<ul")[0]


def test_a_single_value_is_a_dot_in_the_middle():
    for log in (False, True):
        (line,) = places(line_chart([Series("loss", [(100, 0.02)])], log=log))
        assert line[0] == line[1]
        assert line[0][1] == pytest.approx(50, abs=0.1)


def test_the_chart_has_a_description_and_values_under_the_pointer():
    page = line_chart([Series("NoRA", [(10, 0.5), (20, 0.25)])], title="Loss")
    assert 'aria-label="Loss: NoRA from 0.5 at step 10 to 0.25 at step 20."' in page
    strips = re.findall(r"<em>step (\d+)</em><div><span>.*?NoRA</span>([\d.]+)", page)
    assert strips == [("10", "0.5"), ("20", "0.25")]


def test_a_line_with_few_points_still_shows_values_under_the_pointer():
    often = [(n, 1.0) for n in range(1, 1001)]
    rarely = [(n, 0.5) for n in range(37, 1001, 37)]
    page = line_chart([Series("often", often), Series("rarely", rarely)])
    told = [strip for strip in page.split('<div class="at"')[1:] if "rarely" in strip]
    assert len(page.split('<div class="at"')) - 1 <= 120
    assert len(told) >= len(rarely)


def test_labels_are_text_never_markup():
    page = line_chart([Series("<img src=x>", [(0, 1.0)])], title='"><script>', empty="<b>")
    assert "<img" not in page
    assert "<script" not in page
    assert "<b>" not in line_chart([], empty="<b>")


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [
        (0, 1, False),
        (0.031, 0.047, False),
        (0, 1370, False),
        (-0.4, 0.3, False),
        (0.001, 0.9, True),
        (0.02, 0.06, True),
        (1e-9, 1.0, True),
        (0.051, 0.056, True),
    ],
)
def test_ticks_are_round_and_few_and_within(low, high, log):
    axis = Axis(low, high, log)
    assert 3 <= len(axis.ticks) <= 7
    assert all(-1e-6 <= axis.percent(tick) <= 100 + 1e-6 for tick in axis.ticks)
    assert all(len(format_number(tick)) <= 7 for tick in axis.ticks)
    assert axis.ticks == sorted(axis.ticks)
