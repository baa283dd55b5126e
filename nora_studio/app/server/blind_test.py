"""A blind test of two columns: its pairs, its answers and its verdict."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from nora_studio.errors import StudioError
from nora_studio.scoring.statistics import UNITS_FOR_A_VERDICT, sign_test

Answer = Literal["left", "right", "tie"]
ANSWERS = ("left", "right", "tie")


@dataclass(frozen=True)
class BlindPair:
    """One pair of images to judge."""

    prompt: str
    left: str
    """Label of the column on the left."""
    right: str
    files: tuple[str, str]
    """Names of the left and right images in the test's folder."""

    @property
    def labels(self) -> frozenset[str]:
        """The labels of the two columns."""
        return frozenset((self.left, self.right))


@dataclass(frozen=True)
class BlindTest:
    """A blind test and the answers so far."""

    id: str
    image_job: str
    """Id of the image job."""
    first: str
    second: str
    """Labels of the columns that are judged."""
    decoy: str | None
    """Label of the column that should lose; None: there is none."""
    trials: tuple[BlindPair, ...]
    answers: tuple[Answer, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether every pair is judged."""
        return len(self.answers) == len(self.trials)

    def answer(self, answer: str) -> "BlindTest":
        """Return the test with one more answer.

        Raises:
            StudioError: the test has ended, or the answer is unknown.
        """
        if answer not in ANSWERS:
            raise StudioError(f"expected left, right or tie; got {answer[:40]!r}.")
        if self.is_over:
            raise StudioError("this test has ended, and its result is shown. Start another one.")
        return replace(self, answers=(*self.answers, answer))

    def undo(self) -> "BlindTest":
        """Return the test without its last answer.

        Raises:
            StudioError: there is no answer, or the test has ended and the sides are shown.
        """
        if self.is_over or not self.answers:
            raise StudioError("there is no answer to undo.")
        return replace(self, answers=self.answers[:-1])


@dataclass(frozen=True)
class Verdict:
    """The result of a finished test."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    p: float
    """p-value of the exact two-sided sign test, ties left out."""
    decoys: int
    """Number of pairs that contain the base."""
    missed: int
    """Number of decoys where the base was preferred or no difference was seen."""

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        judged = self.first_wins + self.second_wins
        if judged < UNITS_FOR_A_VERDICT:
            return f"Too few choices to tell ({judged}; at least {UNITS_FOR_A_VERDICT} are needed)."
        if self.p >= 0.05:
            return (
                f"No preference shown on these {judged} pairs: chance alone would often do this "
                f"(p = {self.p:.2g})."
            )
        ahead = self.first if self.first_wins > self.second_wins else self.second
        return (
            f"You prefer {ahead} on these {judged} pairs: chance alone would rarely do this "
            f"(p = {self.p:.2g})."
        )

    @property
    def coverage(self) -> str:
        """What the verdict applies to."""
        return (
            "This holds for these images: prompts and seeds of one subject. Another subject, or "
            "another training, may give another result."
        )

    @property
    def caution(self) -> str | None:
        """A warning if decoys were missed; None if none was."""
        if not self.missed:
            return None
        count = f"{self.missed} of {self.decoys} decoys"
        return f"{count} were mistaken for the adapter: treat this with care."


def verdict_of(test: BlindTest) -> Verdict:
    """Return the verdict of a finished test.

    Raises:
        StudioError: the test has not ended; the sides are not revealed before.
    """
    if not test.is_over:
        raise StudioError(
            f"the result is shown once every pair is judged; {len(test.answers)} of "
            f"{len(test.trials)} are."
        )
    chosen = Counter()
    decoys = missed = 0
    for trial, answer in zip(test.trials, test.answers, strict=True):
        winner = {"left": trial.left, "right": trial.right}.get(answer)
        if test.decoy in trial.labels:
            decoys += 1
            missed += winner in (None, test.decoy)
        else:
            chosen[winner] += 1
    wins, losses = chosen[test.first], chosen[test.second]
    p = sign_test(wins, losses)
    return Verdict(test.first, test.second, wins, losses, chosen[None], p, decoys, missed)
