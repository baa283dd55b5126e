"""The rules by which a measured loss ends a training, and its best point."""

import random

import pytest

from nora_studio.runs.curves import Curve, noise


def curve_of(*losses: float) -> Curve:
    """Measurements every 10 steps."""
    return Curve.of_log(
        {"step": 10 * n, "held_out_loss": loss} for n, loss in enumerate(losses, start=1)
    )


@pytest.mark.parametrize(
    ("losses", "patience", "end"),
    [
        ((5, 4, 3, 2, 1), 2, None),
        ((5, 4, 4, 4, 4), 2, 40),
        ((5, 4, 4.5, 3.9, 4, 3.8), 2, None),  # better at every second measurement
        ((5, 4, 3.99, 3.985, 3), 2, 40),  # lower, but by less than half a percent
        ((5, 4, 3.97, 3.94), 2, None),
        ((5, 6, 7), 3, None),  # too few to tell
        ((5, 6, 7, 8), 3, 40),
    ],
)
def test_a_plateau_is_patience_without_an_improvement(losses, patience, end):
    assert curve_of(*losses).ends_at("plateau", patience) == end


@pytest.mark.parametrize(
    ("losses", "patience", "end"),
    [
        ((5, 4, 3, 2, 2.5, 3, 3.5), 2, 60),
        ((5, 4, 3, 2, 2, 2, 2), 2, None),  # a plateau is no overfit
        ((5, 4, 3, 2, 2.5, 3, 1.9), 3, None),  # back below its best in time
        ((5, 3, 4, 2, 4, 2.1, 4, 2.2, 4), 2, None),  # all within its own noise
        ((5, 4, 3), 2, None),
    ],
)
def test_an_overfit_is_patience_above_the_best_by_more_than_the_noise(losses, patience, end):
    assert curve_of(*losses).ends_at("overfit", patience) == end


def test_a_curve_that_ended_once_stays_ended():
    assert curve_of(5, 4, 4, 4, 1, 1, 1).ends_at("plateau", 2) == 40


def test_no_rule_never_ends():
    assert curve_of(1, 2, 3, 4, 5, 6).ends_at("none", 1) is None


def test_the_noise_is_the_jitters_spread_whatever_the_trend():
    draw = random.Random(0)
    falling = [10 - 0.01 * n + draw.gauss(0, 0.2) for n in range(2000)]
    assert noise(falling) == pytest.approx(0.2, rel=0.05)
    assert noise([5, 4, 3, 2, 1]) == pytest.approx(0)
    assert noise([1, 2]) == 0


def test_the_best_point_is_the_first_lowest_among_the_given_steps():
    curve = curve_of(5, 3, 4, 3, 6)
    assert curve.best({10, 20, 30, 40, 50}) == (20, 3)
    assert curve.best({10, 30}) == (30, 4)
    assert curve.best({15}) is None


def test_a_curve_read_from_the_log_is_the_one_that_was_noted():
    noted = Curve()
    rows = [{"step": 0, "held_out_loss": 0.1}, {"step": 1, "loss": 2.0}]
    for step, loss in ((2, 0.12345649), (4, float("nan"))):
        noted.note(step, {"held_out_loss": loss})
        rows.append({"step": step, "held_out_loss": round(loss, 6)})
    assert Curve.of_log(rows) == noted
    assert [point.step for point in noted.points] == [2, 4]  # the bare base is no measurement
    assert noted.best({2, 4}) == (2, 0.123456)


def test_the_held_out_loss_counts_before_the_one_on_training_photos():
    curve = Curve()
    curve.note(1, {"fixed_loss": 1.0, "held_out_loss": 2.0})
    curve.note(2, {"fixed_loss": 1.0})
    assert [point.loss for point in curve.points] == [2.0, 1.0]
