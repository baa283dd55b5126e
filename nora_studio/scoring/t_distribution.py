"""Quantiles of Student's t distribution."""

import math
from functools import cache
from statistics import NormalDist

from nora_studio.errors import StudioError

_LARGE_FREEDOM = 1e5
_SMALLEST = 1e-300


@cache
def t_quantile(probability: float, freedom: float) -> float:
    """Return the t below which Student's distribution has this probability.

    The relative error is below 1e-10. The tails are the incomplete beta function, by its continued
    fraction (Press et al., Numerical Recipes, 3rd edition, 6.4 and 6.14.3), solved for ln t by
    Newton's method within brackets; from 1e5 degrees of freedom on, the expansion around the normal
    quantile (Abramowitz & Stegun 26.7.5) is as exact and free of cancellation.

    Args:
        probability: From 1e-300 to below 1; 0.975 for a two-sided interval of 95%.
        freedom: Degrees of freedom, 1 or more.

    Raises:
        StudioError: an argument is out of its range.
    """
    if not (_SMALLEST <= probability < 1 and 1 <= freedom < math.inf):
        raise StudioError(
            "expected a probability from 1e-300 to below 1 and at least one degree of freedom; got "
            f"{probability} and {freedom}."
        )
    if probability > 0.5:
        return -_lower_quantile(1 - probability, freedom)
    return _lower_quantile(probability, freedom)


def _lower_quantile(probability: float, freedom: float) -> float:
    """Return the quantile of a probability of at most 0.5: negative, or 0."""
    z = NormalDist().inv_cdf(probability)
    if z == 0:
        return 0.0
    if freedom >= _LARGE_FREEDOM:
        return z + sum(
            z * sum(c * z ** (2 * n) for n, c in enumerate(terms)) / (over * freedom**order)
            for order, (over, terms) in enumerate(_EXPANSION, start=1)
        )
    tails, centre = 2 * probability, 1 - 2 * probability
    place, low, high = math.log(-z), -math.inf, math.inf
    for _ in range(200):
        beyond, within, slope = _two_sides(math.exp(place), freedom)
        # The smaller side is the one that is known without cancellation.
        if tails <= 0.5:
            error, slope = math.log(beyond / tails), -slope / beyond
        else:
            error, slope = math.log(centre / within), -slope / within
        low, high = (place, high) if error > 0 else (low, place)
        found = place - error / slope
        if not low < found < high and math.isfinite(high - low):
            found = (low + high) / 2
        if abs(found - place) <= 1e-15 * max(1.0, abs(place)):
            return -math.exp(found)
        place = found
    return -math.exp(place)


# 26.7.5: g_n(z) / freedom**n, as the divisor and the coefficients of z, z**3, z**5 ...
_EXPANSION = (
    (4, (1, 1)),
    (96, (3, 16, 5)),
    (384, (-15, 17, 19, 3)),
    (92160, (-945, -1920, 1482, 776, 79)),
)


def _two_sides(t: float, freedom: float) -> tuple[float, float, float]:
    """Return P(|T| > t), P(|T| < t) and t times the density of |T| at t, for t above 0."""
    ratio = t / math.sqrt(freedom)
    grown = math.log1p(ratio * ratio) if ratio < 1e100 else 2 * math.log(ratio)
    x, y = math.exp(-grown), -math.expm1(-grown)  # Both without cancellation; their sum is 1.
    a, b = freedom / 2, 0.5
    front = math.exp(-a * grown + b * (2 * math.log(ratio) - grown) - _log_beta_of_half(a))
    if x < (a + 1) / (a + b + 2):
        beyond = front * _continued_fraction(a, b, x) / a
        return beyond, 1 - beyond, 2 * front
    within = front * _continued_fraction(b, a, y) / b
    return 1 - within, within, 2 * front


def _log_beta_of_half(a: float) -> float:
    """Return ln B(a, 1/2)."""
    if a < 20:
        return math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    # Stirling's series of the difference: lgamma itself would leave few digits of it.
    series = -1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5) + 17 / (14336 * a**7)
    return 0.5 * math.log(math.pi) - 0.5 * math.log(a) - series


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Return the fraction in I_x(a, b), by Lentz's method, for x below (a + 1) / (a + b + 2)."""
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value, step = d, 0
    while True:  # Of the order of sqrt(max(a, b)) steps.
        step += 1
        for factor in (
            step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step)),
            -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1)),
        ):
            d, c = 1 / (1 + factor * d or tiny), 1 + factor / c or tiny
            value *= d * c
        if abs(d * c - 1) <= 1e-15:
            return value
