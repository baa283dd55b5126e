"""Fidelity to the subject against the prompt: the data, and the rule that recommends a point.

A point is a checkpoint at a strength. `fidelity_judging` generates and scores the images.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nora_studio.errors import StudioError

RESULT = "fidelity.json"
PROMPT_SCORE = "CLIP-T"
RESAMPLES = 4000
RIVAL_SHARE = 0.1
"""A point that is recommended in at least this share of the resamples is named as a rival."""


@dataclass(frozen=True)
class Score:
    """One score by independent units: prompts, or seeds if there is one prompt."""

    units: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    """Ends of the mean's 95% interval; None if there is a single unit."""

    @property
    def mean(self) -> float:
        """The mean over prompts (seeds if there is one prompt)."""
        return sum(self.units) / len(self.units)


@dataclass(frozen=True)
class FidelityPoint:
    """A checkpoint at one strength, with its scores."""

    run: str
    method: str
    step: int
    is_final: bool
    adapter: str
    """Path of the run, or of its checkpoint."""
    strength: float
    scores: dict[str, Score]
    nearest: float
    """Mean similarity of its images to the real photo that each is nearest to."""
    copies: float
    """Share of its images that are nearer to one real photo than any two photos are."""
    pictures: tuple[str, ...]
    """Image files, relative to the result's folder, prompts in the outer loop."""


@dataclass(frozen=True)
class RecommendedPoint:
    """The point of a run with the best balance, and how certain the choice is."""

    point: int
    """Number in `Fidelity.points`."""
    subject_share: float
    """Position from the base (0) to the similarity of the real photos to each other (1)."""
    prompt_share: float
    """Position from a real photo, which ignores prompts (0), to the base (1)."""
    balance: float
    """Harmonic mean of the two shares."""
    wins: float
    """Share of the resamples of the units in which this point is the best."""
    rivals: tuple[int, ...] = ()
    """Numbers of other points of the run that are often the best, most often first."""


@dataclass(frozen=True)
class Fidelity:
    """The result of a measurement, complete or in progress."""

    planned: int
    """Number of points when complete."""
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    photos: str
    """Folder of the real photos."""
    photo_count: int
    clip: str
    dino: str | None
    base: FidelityPoint
    """The base alone, which equals every adapter at strength 0."""
    real: dict[str, tuple[float, ...]]
    """The real photos' scores, by units: with the prompts, and with each other."""
    drawing: dict[str, Any] = field(default_factory=dict)
    """Model, steps, guidance and size of the images."""
    points: tuple[FidelityPoint, ...] = ()
    front: tuple[int, ...] = ()
    """Numbers of the points on their run's Pareto front."""
    recommended: dict[str, RecommendedPoint] = field(default_factory=dict)
    """The recommended point of each run."""
    unclear: dict[str, str] = field(default_factory=dict)
    """Why a run has no recommendation."""

    @property
    def subject_score(self) -> str:
        """DINO if used, since it distinguishes subjects of one class (DreamBooth, 4.2)."""
        return "DINO" if self.dino else "CLIP-I"

    @property
    def is_whole(self) -> bool:
        """Whether all points are measured."""
        return len(self.points) == self.planned


def with_recommendations(result: Fidelity) -> Fidelity:
    """Return the result with each run's front and recommendation computed."""
    front: list[int] = []
    recommended: dict[str, RecommendedPoint] = {}
    unclear: dict[str, str] = {}
    for run in dict.fromkeys(point.run for point in result.points):
        own = [number for number, point in enumerate(result.points) if point.run == run]
        marks = [_means(result, result.points[number]) for number in own]
        front += [own[place] for place in pareto_front(marks)]
        try:
            recommended[run] = recommend(result, own)
        except StudioError as error:
            unclear[run] = str(error)
    values = {"front": tuple(front), "recommended": recommended, "unclear": unclear}
    return Fidelity(**{**vars(result), **values})


def _means(result: Fidelity, point: FidelityPoint) -> tuple[float, float]:
    return point.scores[result.subject_score].mean, point.scores[PROMPT_SCORE].mean


def pareto_front(marks: Sequence[tuple[float, float]]) -> list[int]:
    """Return the numbers of the Pareto-optimal points, sorted by the second mark."""

    def beats(other: tuple[float, float], mark: tuple[float, float]) -> bool:
        return other != mark and other[0] >= mark[0] and other[1] >= mark[1]

    front = [n for n, mark in enumerate(marks) if not any(beats(other, mark) for other in marks)]
    return sorted(front, key=lambda number: marks[number][1])


def recommend(result: Fidelity, numbers: Sequence[int]) -> RecommendedPoint:
    """Return the point with the best balance of subject and prompt.

    Neither score has a natural zero or unit, so both are scaled between two ends, between which a
    trained adapter lies. The base follows the prompt and does not know the subject; a real photo
    shows the subject and does not follow prompts. The subject share goes from the base's similarity
    to the photos (0) to the photos' similarity to each other (1), the prompt share from the photos'
    mean CLIP-T with all prompts (0) to the base's CLIP-T (1); values above 1 count as 1. The
    balance is their harmonic mean: it is high only if both shares are, needs no weight, and below 1
    its maximum lies on the Pareto front. A bootstrap over prompts gives the certainty: the share of
    resamples in which the same point wins, and the points that win the others.

    Raises:
        StudioError: the two ends are equal by a score, or no point is better than both.
    """
    units = len(result.points[numbers[0]].scores[PROMPT_SCORE].units)
    subject, prompt = (share[:, 0] for share in _shares(result, numbers, np.arange(units)[None]))
    if np.isnan(subject).any():
        raise StudioError(
            f"by {result.subject_score} the photos are not more similar to each other than the "
            "base's images are to them, so it cannot judge this subject. Try another judge, or "
            "more photos."
        )
    if np.isnan(prompt).any():
        raise StudioError(
            "by CLIP-T the base does not show these prompts better than the photos do. Use prompts "
            "with places or things that are on none of the photos."
        )
    balance = balances(subject, prompt)
    if balance.max() <= 0:
        raise StudioError(
            "no point is both nearer to the subject than the base and nearer to the prompts than a "
            "photo. Train longer, or use more prompts."
        )
    best = int(balance.argmax())
    samples = np.random.default_rng(0).integers(0, units, (RESAMPLES, units))
    resampled = balances(*_shares(result, numbers, samples))
    valid = ~np.isnan(resampled).any(axis=0)
    winners = np.bincount(resampled[:, valid].argmax(axis=0), minlength=len(numbers))
    share = winners / max(1, valid.sum())
    order = [n for n in np.argsort(-share, kind="stable") if n != best and share[n] >= RIVAL_SHARE]
    return RecommendedPoint(
        point=numbers[best],
        subject_share=float(subject[best]),
        prompt_share=float(prompt[best]),
        balance=float(balance[best]),
        wins=float(share[best]),
        rivals=tuple(numbers[n] for n in order),
    )


def _shares(
    result: Fidelity,
    numbers: Sequence[int],
    samples: np.ndarray,  # (resamples, units)
) -> tuple[np.ndarray, np.ndarray]:  # 2 x (points, resamples)
    """Return the shares of subject and prompt for samples of the units; NaN for equal ends."""

    def means(scores: Mapping[str, Sequence[float]], name: str) -> np.ndarray:
        return np.array(scores[name])[samples].mean(-1)

    def share(name: str, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        values = np.array([result.points[n].scores[name].units for n in numbers])
        return (values[:, samples].mean(-1) - low) / np.where(high > low, high - low, np.nan)

    base = {name: score.units for name, score in result.base.scores.items()}
    subject = result.subject_score
    return (
        share(subject, means(base, subject), means(result.real, subject)),
        share(PROMPT_SCORE, means(result.real, PROMPT_SCORE), means(base, PROMPT_SCORE)),
    )


def balances(subject: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Return the harmonic mean of two shares, clamped to at most 1; 0 if one is below 0."""
    first, second = np.clip(subject, 0, 1), np.clip(prompt, 0, 1)
    total = first + second
    return 2 * first * second / np.where(total > 0, total, 1)


def as_json(result: Fidelity) -> str:
    """Return a result as JSON, for its file."""
    kept = asdict(result)
    for values, point in zip(kept["points"], result.points, strict=True):
        for name, score in point.scores.items():  # Only for readers of the file; not read back.
            values["scores"][name]["mean"] = score.mean
    return json.dumps(kept, indent=1, ensure_ascii=False) + "\n"


def read_fidelity(folder: Path) -> Fidelity:
    """Read a result from its folder.

    Raises:
        StudioError: the result does not exist, or is damaged.
    """
    file = folder / RESULT
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        values = kept | {
            "base": _point(kept["base"]),
            "real": {name: tuple(units) for name, units in kept["real"].items()},
            "points": tuple(_point(point) for point in kept["points"]),
            "recommended": {
                run: RecommendedPoint(**(one | {"rivals": tuple(one["rivals"])}))
                for run, one in kept["recommended"].items()
            },
        }
        for name in ("prompts", "seeds", "front"):
            values[name] = tuple(values[name])
        return Fidelity(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudioError(f"{file} cannot be read: {reason}. Measure again.") from error


def _point(kept: dict[str, Any]) -> FidelityPoint:
    scores = {
        name: Score(tuple(score["units"]), score["low"], score["high"])
        for name, score in kept["scores"].items()
    }
    return FidelityPoint(**(kept | {"scores": scores, "pictures": tuple(kept["pictures"])}))
