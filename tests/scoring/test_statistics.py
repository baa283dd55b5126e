"""Intervals cover the truth as often as they claim, for any number of units."""

import math
import random
import statistics

import mpmath
import pytest
from reference import student_centre, student_half_width

from nora_studio.errors import StudioError
from nora_studio.scoring.statistics import (
    Difference,
    Mean,
    coverage,
    difference_in_words,
    format_signed,
    mean_difference,
    mean_of,
    paired_difference,
    sign_test,
    verdict,
)
from nora_studio.scoring.t_distribution import t_quantile

# Published tables, extended: NIST/SEMATECH e-Handbook, 1.3.6.7.2, and R's qt.
PUBLISHED = {
    (0.975, 1): 12.7062047362,
    (0.975, 2): 4.30265272970,
    (0.975, 3): 3.18244630528,
    (0.975, 9): 2.26215716280,
    (0.975, 10): 2.22813885199,
    (0.975, 30): 2.04227245630,
    (0.975, 100): 1.98397151845,
    (0.975, 1000): 1.96233908083,
    (0.95, 5): 2.01504837333,
    (0.995, 20): 2.84533970978,
    (0.9995, 4): 8.61030158138,
}


@pytest.mark.parametrize(("probability", "freedom"), PUBLISHED)
def test_t_quantiles_are_the_published_ones(probability, freedom):
    found = t_quantile(probability, freedom)
    assert found == pytest.approx(PUBLISHED[probability, freedom], rel=1e-10)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-found, rel=1e-13)


@pytest.mark.parametrize("freedom", [1, 2, 3, 8, 9, 10, 11, 29, 40, 41, 100, 1001])
@pytest.mark.parametrize("confidence", [0.01, 0.3, 0.5, 0.9, 0.95, 0.999])
def test_t_quantiles_have_their_probability_by_the_finite_sums(confidence, freedom):
    t = t_quantile(0.5 + confidence / 2, freedom)
    assert student_centre(t, freedom) == pytest.approx(confidence, rel=1e-11)


@pytest.mark.parametrize("freedom", [1, 2.5, 19, 20, 21, 1000, 99_999, 100_000, 1_000_000])
def test_t_quantiles_are_exact_for_any_freedom_and_any_confidence(freedom):
    """In 40 digits: the error in t is that of its tail over the density."""
    with mpmath.workdps(40):
        nu, half = mpmath.mpf(freedom), mpmath.mpf(1) / 2
        for probability in (1e-30, 1e-9, 0.005, 0.025, 0.2, 0.2501, 0.4, 0.4999):
            t = -mpmath.mpf(t_quantile(probability, freedom))
            tail = mpmath.betainc(nu / 2, half, 0, nu / (nu + t * t), regularized=True) / 2
            scale = mpmath.sqrt(nu) * mpmath.beta(nu / 2, half)
            density = (1 + t * t / nu) ** (-(nu + 1) / 2) / scale
            assert abs(tail - probability) / (density * t) < 1e-11, (probability, freedom)


@pytest.mark.parametrize(
    "where", [(0.0, 3), (1.0, 3), (math.nan, 3), (0.975, 0), (0.975, math.nan)]
)
def test_impossible_quantiles_are_refused(where):
    with pytest.raises(StudioError, match="degree of freedom"):
        t_quantile(*where)
    assert t_quantile(0.5, 7) == 0


@pytest.mark.parametrize("count", [2, 3, 10, 11, 12, 40, 500])
def test_a_mean_has_students_interval_whatever_the_number_of_values(count):
    generator = random.Random(count)
    values = [generator.gauss(70, 5) for _ in range(count)]
    found = mean_of(values)
    assert found.value == statistics.fmean(values) and found.units == count
    assert found.half == pytest.approx(student_half_width(values), rel=1e-9)


def test_a_single_unit_has_no_interval():
    assert mean_of([70.0]) == (70.0, None, 1)
    assert not mean_of([70.0]).shows_difference
    assert difference_in_words(mean_difference({0: 2.0}, {0: 1.0, 1: 5.0}), 1) == (
        "+1.0 (one pair: no interval)"
    )
    assert mean_difference({0: 1.0}, {1: 1.0}) is None
    assert difference_in_words(None, 1) == ""


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_a_mean_of_nothing_or_of_nan_is_refused(values):
    with pytest.raises(StudioError, match="all finite"):
        mean_of(values)


def test_seeds_of_a_subject_are_one_unit():
    values, subjects = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9], ["mug", "mug", "cat", "cat", "fox", "fox"]
    found = mean_of(values, subjects)
    assert found.units == 3
    assert found == pytest.approx(mean_of([0.2, 0.6, 0.85]))
    # Seeds that say the same again tell nothing new.
    assert mean_of(values * 4, subjects * 4) == pytest.approx(found)
    # Of a single subject its seeds are the units; `coverage` says what that covers.
    assert mean_of(values[:2], subjects[:2]) == mean_of(values[:2])
    pairs = {(s, n): v for n, (v, s) in enumerate(zip(values, subjects, strict=True))}
    zeros = dict.fromkeys(pairs, 0.0)
    assert mean_difference(pairs, zeros, lambda key: key[0]) == pytest.approx(found)


def test_intervals_over_subjects_cover_the_truth_where_those_over_seeds_do_not():
    """Subjects differ (1.0) by more than their seeds (0.3): six subjects, four seeds each."""
    generator, trials, subjects = random.Random(7), 600, [n // 4 for n in range(24)]
    clustered = naive = 0
    for _ in range(trials):
        own = [generator.gauss(0.3, 1.0) for _ in range(6)]
        values = [own[subject] + generator.gauss(0, 0.3) for subject in subjects]
        for_subjects, for_seeds = mean_of(values, subjects), mean_of(values)
        clustered += abs(for_subjects.value - 0.3) <= (for_subjects.half or 0)
        naive += abs(for_seeds.value - 0.3) <= (for_seeds.half or 0)
    slack = 3 * math.sqrt(0.95 * 0.05 / trials)
    assert clustered / trials == pytest.approx(0.95, abs=slack)
    assert naive / trials < 0.75


def test_a_difference_is_noted_if_its_interval_contains_zero():
    assert difference_in_words(Mean(-2.42, 2.7, 3), 1) == "−2.4 ± 2.7: no difference shown"
    assert difference_in_words(Mean(-3.8, 2.2, 3), 1) == "−3.8 ± 2.2"
    assert difference_in_words(Mean(0.0, 0.0, 3), 1) == "0.0 ± 0.0: no difference shown"
    assert (format_signed(-0.0004), format_signed(0.0004), format_signed(-0.0006)) == (
        "0.000",
        "0.000",
        "−0.001",
    )


def test_the_coverage_of_intervals_of_one_subject_is_described():
    for over, found in (("6 prompts", coverage(6, 2)), ("8 seeds of one prompt", coverage(1, 8))):
        assert over in found and "prompts and seeds of one subject" in found
    assert coverage(1, 1) == "A single image has no interval."


def test_the_mean_difference_is_exact_and_lies_in_its_interval():
    a, b = [0.5, 0.25, 0.75, 1.0], [0.25, 0.25, 0.25, 0.25]
    found = paired_difference(a, b)
    assert found.mean == 0.375
    # Four units: Student's t with three degrees of freedom, beyond the smallest and the largest.
    half = 3.182446305284 * statistics.stdev(x - y for x, y in zip(a, b, strict=True)) / 2
    assert found == pytest.approx((0.375, 0.375 - half, 0.375 + half), rel=1e-10)


def test_the_interval_is_the_same_every_time_and_mirrors_when_sides_swap():
    generator = random.Random(0)
    a = [generator.gauss(0.1, 1) for _ in range(12)]
    b = [generator.gauss(0.0, 1) for _ in range(12)]
    first, again, swapped = (
        paired_difference(a, b),
        paired_difference(a, b),
        paired_difference(b, a),
    )
    assert first == again
    assert swapped == pytest.approx((-first.mean, -first.high, -first.low))
    assert paired_difference(a, b, seed=1) != first


@pytest.mark.parametrize("units", [2, 3, 4, 5, 6, 12, 40])
def test_intervals_cover_the_truth_95_times_in_a_hundred(units):
    """Normal differences around 0.3; of 400 intervals 95% must hold it, give or take 3 sigma."""
    generator = random.Random(units)
    trials, held = 400, 0
    for _ in range(trials):
        delta = [generator.gauss(0.3, 1.0) for _ in range(units)]
        found = paired_difference(delta, [0.0] * units, resamples=1000)
        held += found.low <= 0.3 <= found.high
    slack = 3 * math.sqrt(0.95 * 0.05 / trials)
    assert held / trials == pytest.approx(0.95, abs=slack)


def test_repeating_every_pair_within_its_group_changes_nothing():
    delta = [0.1, -0.2, 0.4, 0.3, 0.05, 0.2]
    zeros = [0.0] * 6
    once = paired_difference(delta, zeros, ["a", "b", "c", "d", "e", "f"])
    groups = [group for group in "abcdef" for _ in range(5)]
    repeated = paired_difference([v for v in delta for _ in range(5)], [0.0] * 30, groups)
    assert repeated == pytest.approx(once)
    naive = paired_difference([v for v in delta for _ in range(5)], [0.0] * 30)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_groups_are_weighted_by_their_pairs():
    found = paired_difference([1.0, 1.0, 1.0, 0.0], [0.0] * 4, ["x", "x", "x", "y"])
    assert found.mean == 0.75


@pytest.mark.parametrize(
    ("a", "b", "groups", "word"),
    [
        ([1.0], [1.0, 2.0], None, "as many scores"),
        ([1.0, 2.0], [1.0, 2.0], ["x"], "1 groups"),
        ([1.0], [2.0], None, "at least two"),
        ([1.0, 2.0], [1.0, 2.0], ["x", "x"], "at least two"),
        ([1.0, math.nan], [1.0, 2.0], None, "NaN"),
    ],
)
def test_invalid_differences_are_refused(a, b, groups, word):
    with pytest.raises(StudioError, match=word):
        paired_difference(a, b, groups)


def test_a_verdict_names_the_higher_side_only_if_the_interval_excludes_zero():
    assert verdict(Difference(0.1, 0.05, 0.15), 10, "NoRA", "LoRA") == "NoRA higher than LoRA"
    assert verdict(Difference(-0.1, -0.2, -0.05), 10, "NoRA", "LoRA") == "LoRA higher than NoRA"
    assert verdict(Difference(0.1, -0.01, 0.2), 10, "NoRA", "LoRA") == "no difference shown"
    assert verdict(Difference(0.0, 0.0, 0.0), 10, "NoRA", "LoRA") == "no difference shown"


def test_few_prompts_give_no_verdict():
    assert "too few prompts" in verdict(Difference(0.9, 0.8, 1.0), 5, "NoRA", "LoRA")
    assert "too few seeds" in verdict(Difference(0.9, 0.8, 1.0), 5, "NoRA", "LoRA", "seeds")


@pytest.mark.parametrize("wins", range(9))
def test_the_sign_test_is_the_exact_binomial(wins):
    losses = 8 - wins
    tail = sum(math.comb(8, k) for k in range(9) if math.comb(8, k) <= math.comb(8, wins)) / 2**8
    assert sign_test(wins, losses) == pytest.approx(tail)
    assert sign_test(0, 0) == 1.0
