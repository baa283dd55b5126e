"""Subject against prompt: which checkpoint, at which strength, keeps most of both.

Plain data and the rule by which a point is recommended; nothing here draws or judges.
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
"""A point that would be recommended in so many of the resamples is told as a rival."""


@dataclass(frozen=True)
class Score:
    """One score of some pictures, by independent units: prompts, or seeds where there is one."""

    units: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    """Ends of the mean's 95% interval; None where there is a single unit."""

    @property
    def mean(self) -> float:
        return sum(self.units) / len(self.units)


@dataclass(frozen=True)
class Point:
    """An adapter as of one step, at one strength."""

    run: str
    method: str
    step: int
    is_final: bool
    adapter: str
    """Path of the run, or of its checkpoint."""
    strength: float
    scores: dict[str, Score]
    nearest: float
    """Mean likeness of its pictures to the one real photo that each is nearest to."""
    copies: float
    """Share of its pictures nearer to one real photo than any two of the photos are."""
    pictures: tuple[str, ...]
    """Files, relative to the result's folder, prompts in the outer loop."""


@dataclass(frozen=True)
class Recommendation:
    """The best balance among a run's points, and how sure that is."""

    point: int
    """Number in `Fidelity.points`."""
    subject_share: float
    """How far from the base (0) to the likeness of the real photos among themselves (1)."""
    prompt_share: float
    """How far from a real photo, which heeds no prompt (0), to the base (1)."""
    balance: float
    """Harmonic mean of the two."""
    wins: float
    """Share of the resamples of the units in which this point is the best."""
    rivals: tuple[int, ...] = ()
    """Numbers of the run's other points that are the best in many of them, most often first."""


@dataclass(frozen=True)
class Fidelity:
    """All that was measured, so far or whole."""

    planned: int
    """Points in all; fewer are there while it is under way."""
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    photos: str
    """Folder of the real photos."""
    photo_count: int
    clip: str
    dino: str | None
    base: Point
    """The bare base, which is every adapter at strength 0."""
    real: dict[str, tuple[float, ...]]
    """The real photos' own scores, by units: with the prompts; and each with the others."""
    drawing: dict[str, Any] = field(default_factory=dict)
    """Model, steps, guidance and size of the pictures."""
    points: tuple[Point, ...] = ()
    front: tuple[int, ...] = ()
    """Numbers of the points that no other one of their run beats at both scores."""
    recommended: dict[str, Recommendation] = field(default_factory=dict)
    """By run."""
    unclear: dict[str, str] = field(default_factory=dict)
    """Runs without a recommendation: why."""

    @property
    def subject_score(self) -> str:
        """DINO where it judged: it tells subjects of one class apart (DreamBooth, 4.2)."""
        return "DINO" if self.dino else "CLIP-I"

    @property
    def is_whole(self) -> bool:
        return len(self.points) == self.planned


def concluded(result: Fidelity) -> Fidelity:
    """The same measurements with each run's front and recommendation found anew."""
    front: list[int] = []
    recommended: dict[str, Recommendation] = {}
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


def _means(result: Fidelity, point: Point) -> tuple[float, float]:
    return point.scores[result.subject_score].mean, point.scores[PROMPT_SCORE].mean


def pareto_front(marks: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other one beats: as good at both, and better at one. By the second mark."""

    def beats(other: tuple[float, float], mark: tuple[float, float]) -> bool:
        return other != mark and other[0] >= mark[0] and other[1] >= mark[1]

    front = [n for n, mark in enumerate(marks) if not any(beats(other, mark) for other in marks)]
    return sorted(front, key=lambda number: marks[number][1])


def recommend(result: Fidelity, numbers: Sequence[int]) -> Recommendation:
    """Which of some points to use: the one with the best balance of subject and prompt.

    Neither score has a zero or a unit of its own, so both are measured between the two ends that a
    trained adapter lies between. The base heeds the prompt and knows nothing of the subject; a real
    photo is the subject and heeds no prompt. The share of the subject goes from the base's likeness
    to the photos (0) to the photos' likeness to each other (1), the share of the prompt from the
    photos' mean CLIP-T with all prompts (0) to the base's CLIP-T (1); beyond 1 nothing is gained.
    Their harmonic mean is the balance: it is high only where both are, has no weight to choose, and
    below 1 its highest point lies on the Pareto front. How sure the choice is, a bootstrap over
    prompts tells: the share of resamples in which the same point wins, and who wins the others.

    Raises:
        StudioError: the judge cannot tell the two ends apart, or no point is better than both.
    """
    units = len(result.points[numbers[0]].scores[PROMPT_SCORE].units)
    nearness, heed = (share[:, 0] for share in _shares(result, numbers, np.arange(units)[None]))
    if np.isnan(nearness).any():
        raise StudioError(
            f"by {result.subject_score} the photos are no more like each other than the base's "
            "pictures are like them, so it cannot judge this subject. Try another judge, or more "
            "photos."
        )
    if np.isnan(heed).any():
        raise StudioError(
            "by CLIP-T the base shows these prompts no better than the photos do. Ask for places "
            "or things that are on none of the photos."
        )
    balance = balances(nearness, heed)
    if balance.max() <= 0:
        raise StudioError(
            "no point is both nearer to the subject than the base and truer to the prompts than a "
            "photo. Train longer, or draw more prompts."
        )
    best = int(balance.argmax())
    drawn = np.random.default_rng(0).integers(0, units, (RESAMPLES, units))
    redrawn = balances(*_shares(result, numbers, drawn))
    told = ~np.isnan(redrawn).any(axis=0)
    winners = np.bincount(redrawn[:, told].argmax(axis=0), minlength=len(numbers))
    share = winners / max(1, told.sum())
    order = [n for n in np.argsort(-share, kind="stable") if n != best and share[n] >= RIVAL_SHARE]
    return Recommendation(
        point=numbers[best],
        subject_share=float(nearness[best]),
        prompt_share=float(heed[best]),
        balance=float(balance[best]),
        wins=float(share[best]),
        rivals=tuple(numbers[n] for n in order),
    )


def _shares(
    result: Fidelity,
    numbers: Sequence[int],
    drawn: np.ndarray,  # (resamples, units)
) -> tuple[np.ndarray, np.ndarray]:  # 2 x (points, resamples)
    """The shares of subject and prompt by some draws of the units; NaN where the ends are one."""

    def means(scores: Mapping[str, Sequence[float]], name: str) -> np.ndarray:
        return np.array(scores[name])[drawn].mean(-1)

    def share(name: str, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        values = np.array([result.points[n].scores[name].units for n in numbers])
        return (values[:, drawn].mean(-1) - low) / np.where(high > low, high - low, np.nan)

    base = {name: score.units for name, score in result.base.scores.items()}
    subject = result.subject_score
    return (
        share(subject, means(base, subject), means(result.real, subject)),
        share(PROMPT_SCORE, means(result.real, PROMPT_SCORE), means(base, PROMPT_SCORE)),
    )


def balances(subject: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Harmonic mean of two shares, each no more than 1; 0 where one is below 0."""
    first, second = np.clip(subject, 0, 1), np.clip(prompt, 0, 1)
    total = first + second
    return 2 * first * second / np.where(total > 0, total, 1)


def as_json(result: Fidelity) -> str:
    """A result as it is kept."""
    kept = asdict(result)
    for values, point in zip(kept["points"], result.points, strict=True):
        for name, score in point.scores.items():  # Not read back: for whoever reads the file.
            values["scores"][name]["mean"] = score.mean
    return json.dumps(kept, indent=1, ensure_ascii=False) + "\n"


def read_fidelity(folder: Path) -> Fidelity:
    """Read a result back from its folder.

    Raises:
        StudioError: there is none, or it is damaged.
    """
    file = folder / RESULT
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        values = kept | {
            "base": _point(kept["base"]),
            "real": {name: tuple(units) for name, units in kept["real"].items()},
            "points": tuple(_point(point) for point in kept["points"]),
            "recommended": {
                run: Recommendation(**(one | {"rivals": tuple(one["rivals"])}))
                for run, one in kept["recommended"].items()
            },
        }
        for name in ("prompts", "seeds", "front"):
            values[name] = tuple(values[name])
        return Fidelity(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudioError(f"{file} cannot be read: {reason}. Measure again.") from error


def _point(kept: dict[str, Any]) -> Point:
    scores = {
        name: Score(tuple(score["units"]), score["low"], score["high"])
        for name, score in kept["scores"].items()
    }
    return Point(**(kept | {"scores": scores, "pictures": tuple(kept["pictures"])}))
