"""Means over independent units with intervals, paired differences, and what they show."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.scoring.t_distribution import t_quantile

CONFIDENCE = 0.95
UNITS_FOR_A_VERDICT = 6
"""With fewer, even units that all agree have a sign-test p above 0.05: 2 * 0.5**5 = 0.0625."""
NO_DIFFERENCE = "no difference shown"
RESAMPLES_AT_ONCE = 500
_Key = TypeVar("_Key", bound=Hashable)


class Mean(NamedTuple):
    """A mean over independent units, with half of its 95% interval by Student's t."""

    value: float
    half: float | None
    """None for a single unit, which has no interval."""
    units: int

    @property
    def shows_difference(self) -> bool:
        """For a difference: whether its interval excludes zero."""
        return self.half is not None and abs(self.value) > self.half


def mean_of(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Mean:
    """Return the mean with its interval over clusters, or over values without clusters.

    Values of one cluster are alike (seeds of one subject), so they are not independent units: each
    cluster counts once, by its mean. The values of a single cluster are the units themselves; the
    interval then covers only that cluster, which must be said where it is printed.

    Raises:
        StudioError: there are no values, a value is not finite, or the numbers of values and
            clusters differ.
    """
    if not values or not all(map(math.isfinite, values)):
        raise StudioError(
            f"expected at least one score, all finite, for a mean; got {list(values)}. Measure "
            "again those that are not finite, or leave them out."
        )
    labels = range(len(values)) if clusters is None else clusters
    if len(labels) != len(values):
        raise StudioError(
            f"expected a cluster for each of {len(values)} values; got {len(labels)}."
        )
    groups: dict[Hashable, list[float]] = {}
    for value, label in zip(values, labels, strict=True):
        groups.setdefault(label, []).append(value)
    units = list(values) if len(groups) == 1 else [fmean(group) for group in groups.values()]
    if len(units) < 2:
        return Mean(fmean(units), None, 1)
    t = t_quantile(0.5 + CONFIDENCE / 2, len(units) - 1)
    return Mean(fmean(units), t * stdev(units) / math.sqrt(len(units)), len(units))


def mean_difference(
    first: Mapping[_Key, float],
    second: Mapping[_Key, float],
    cluster_of: Callable[[_Key], Hashable] | None = None,
) -> Mean | None:
    """Return the mean of first minus second, pair by pair; None if they share no key.

    Args:
        first, second: Values by the key of a pair: the seed, or the subject and the seed.
        cluster_of: Function from a key to its cluster. None: every pair is a unit.
    """
    shared = [key for key in first if key in second]
    if not shared:
        return None
    clusters = None if cluster_of is None else [cluster_of(key) for key in shared]
    return mean_of([first[key] - second[key] for key in shared], clusters)


def format_signed(value: float, digits: int = 3) -> str:
    """Format a number with a sign (a true minus); without one if it rounds to zero."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text[1:] if float(text[1:]) == 0 else text


def difference_in_words(found: Mean | None, digits: int) -> str:
    """Format a difference with its interval, with a note if the interval contains zero."""
    if found is None:
        return ""
    if found.half is None:
        return f"{format_signed(found.value, digits)} (one pair: no interval)"
    text = f"{format_signed(found.value, digits)} ± {found.half:.{digits}f}"
    return text if found.shows_difference else f"{text}: {NO_DIFFERENCE}"


def coverage(prompts: int, seeds: int) -> str:
    """Describe in a sentence what the intervals of one subject's images cover."""
    if prompts * seeds < 2:
        return "A single image has no interval."
    over = f"{prompts} prompts" if prompts > 1 else f"{seeds} seeds of one prompt"
    return (
        f"Intervals are 95% intervals over {over}. They cover prompts and seeds of one subject: "
        "another subject, or another training, may differ by more."
    )


class Difference(NamedTuple):
    """A mean difference with its 95% interval."""

    mean: float
    low: float
    high: float


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[str | int] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Return the mean of a - b with its interval over pairs, or over groups of pairs.

    Pairs that share a prompt or a subject are alike, so whole groups are the units. From six units
    on, the interval is an expanded percentile bootstrap (Hesterberg, The American Statistician
    69(4), 2015, 5.3), with percentiles at the level of Student's t, since the plain percentile
    interval is too narrow for few groups. No bootstrap interval exceeds the smallest and the
    largest unit, between which the mean lies in only 1 - 2 * 0.5**n of cases: 50% for two units,
    94% for five. Below six units the interval is Student's.

    Args:
        a, b: Scores of the same prompts and seeds, in the same order.
        groups: A label for each pair. None: every pair is its own group.
        seed: Seed of the resampling; the same seed gives the same interval.

    Raises:
        StudioError: lengths differ, a score is NaN, or there are fewer than two groups.
    """
    if len(a) != len(b) or (groups is not None and len(groups) != len(a)):
        raise StudioError(
            f"expected as many scores on both sides and a group for each; got {len(a)} and "
            f"{len(b)}" + (f" with {len(groups)} groups." if groups is not None else ".")
        )
    delta = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    if not torch.isfinite(delta).all():
        raise StudioError("expected finite scores; got NaN or infinity. Score the images again.")
    labels = list(range(len(a))) if groups is None else list(groups)
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    if len(numbers) < 2:
        raise StudioError(
            f"expected at least two independent pairs or groups for an interval; got "
            f"{len(numbers)}. Add prompts or seeds."
        )
    member = torch.tensor([numbers[label] for label in labels])
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, member, delta)
    counts = torch.bincount(member, minlength=len(numbers)).double()
    mean = delta.mean().item()
    if len(numbers) < UNITS_FOR_A_VERDICT:
        half = _ratio_half_width(sums, counts)
        return Difference(mean, mean - half, mean + half)
    means = _resample_means(sums, counts, resamples, seed)
    tail = _expanded_tail(len(numbers))
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Difference(mean, low, high)


def _ratio_half_width(sums: Tensor, counts: Tensor) -> float:
    """Return half of the interval, by Student's t, of a mean over all members of few groups."""
    units = len(sums)
    residuals = sums - counts * (sums.sum() / counts.sum())
    error = math.sqrt(units / (units - 1) * residuals.square().sum().item()) / counts.sum().item()
    return t_quantile(0.5 + CONFIDENCE / 2, units - 1) * error


def _resample_means(sums: Tensor, counts: Tensor, resamples: int, seed: int) -> Tensor:
    """Return means over all members of groups sampled with replacement, (resamples,)."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        shape = (min(RESAMPLES_AT_ONCE, resamples - start), len(sums))
        sampled = torch.randint(len(sums), shape, generator=generator)
        rows.append(sums[sampled].sum(dim=1) / counts[sampled].sum(dim=1))
    return torch.cat(rows)


def _expanded_tail(units: int) -> float:
    """Return the share of resamples to leave out on each side, for a 95% interval."""
    freedom = units - 1
    t = t_quantile(0.5 + CONFIDENCE / 2, freedom)
    return NormalDist().cdf(-math.sqrt(units / freedom) * t)


def verdict(
    difference: Difference, units: int, first: str, second: str, unit: str = "prompts"
) -> str:
    """Describe in words what a difference shows.

    Args:
        difference: The difference `first` minus `second`.
        units: Number of independent pairs or groups.
        unit: Name of the units, in the plural.
    """
    if units < UNITS_FOR_A_VERDICT:
        return f"too few {unit} to tell ({units}; at least {UNITS_FOR_A_VERDICT} are needed)"
    if difference.low <= 0 <= difference.high:
        return NO_DIFFERENCE
    ahead, behind = (first, second) if difference.mean > 0 else (second, first)
    return f"{ahead} higher than {behind}"


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p of a number of wins and losses under equal chances."""
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**count)
