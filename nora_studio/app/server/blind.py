"""A blind test of two columns of a drawing: random sides, hidden names, the base as a decoy.

Until it ends, nothing that reaches the page tells the sides apart: pictures go out under random
names, without their recipes, all of one moment.
"""

import json
import os
import random
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from nora_studio.app.server.image_jobs import Sheet
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.photos.opening import open_image
from nora_studio.runs.atomic import write_text
from nora_studio.runs.storage import writing
from nora_studio.scoring.statistics import UNITS_FOR_A_VERDICT, sign_test

Answer = Literal["left", "right", "tie"]
ANSWERS = ("left", "right", "tie")
TESTS = "blind"
"""Folder of a drawing's tests."""
PAIRS_LIMIT = 40


@dataclass(frozen=True)
class Trial:
    """One pair of pictures."""

    prompt: str
    left: str
    """Label of the column on the left."""
    right: str
    files: tuple[str, str]
    """Names of the pictures, left and right, in the test's folder."""

    @property
    def pair(self) -> frozenset[str]:
        return frozenset((self.left, self.right))


@dataclass(frozen=True)
class BlindTest:
    """A test as it stands."""

    id: str
    sheet: str
    """Id of the drawing."""
    first: str
    second: str
    """Labels of the columns that are judged."""
    decoy: str | None
    """Label of the column that ought to lose; None: there is none."""
    trials: tuple[Trial, ...]
    answers: tuple[Answer, ...] = ()

    @property
    def is_over(self) -> bool:
        return len(self.answers) == len(self.trials)

    def answer(self, given: str) -> "BlindTest":
        """With one more answer.

        Raises:
            StudioError: it is over, or the answer is none.
        """
        if given not in ANSWERS:
            raise StudioError(f"expected left, right or tie; got {given[:40]!r}.")
        if self.is_over:
            raise StudioError("this test has ended, and its result is shown. Start another one.")
        return replace(self, answers=(*self.answers, given))

    def undo(self) -> "BlindTest":
        """Without the last answer.

        Raises:
            StudioError: there is none to take back, or the sides are known already.
        """
        if self.is_over or not self.answers:
            raise StudioError("there is no answer to undo.")
        return replace(self, answers=self.answers[:-1])


@dataclass(frozen=True)
class Verdict:
    """What the answers show."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    p: float
    """Of the exact two-sided sign test, ties left out."""
    decoys: int
    """Pairs with the base in them."""
    missed: int
    """Of these, where the base was preferred or no difference was seen."""

    @property
    def sentence(self) -> str:
        """In plain words."""
        judged = self.first_wins + self.second_wins
        if judged < UNITS_FOR_A_VERDICT:
            return f"Too few choices to tell ({judged}; at least {UNITS_FOR_A_VERDICT} are needed)."
        if self.p >= 0.05:
            return (
                f"No preference shown on these {judged} pairs: chance alone often does this "
                f"(p = {self.p:.2g})."
            )
        ahead = self.first if self.first_wins > self.second_wins else self.second
        return (
            f"You prefer {ahead} on these {judged} pairs: chance alone would rarely do this "
            f"(p = {self.p:.2g})."
        )

    @property
    def coverage(self) -> str:
        """How far the verdict reaches."""
        return (
            "This holds for these pictures: prompts and seeds of one subject. Another subject, or "
            "another training, may give another result."
        )

    @property
    def caution(self) -> str | None:
        """How far the judge is to be trusted; None where no decoy was missed."""
        if not self.missed:
            return None
        count = f"{self.missed} of {self.decoys} decoys"
        return f"{count} were mistaken for the adapter: treat this with care."


def verdict_of(test: BlindTest) -> Verdict:
    """The verdict of a test that is over.

    Raises:
        StudioError: it is not: the sides are not revealed before the end.
    """
    if not test.is_over:
        raise StudioError(
            f"the result is shown once every pair is judged; {len(test.answers)} of "
            f"{len(test.trials)} are."
        )
    chosen = Counter()
    decoys = missed = 0
    for trial, answer in zip(test.trials, test.answers):
        winner = {"left": trial.left, "right": trial.right}.get(answer)
        if test.decoy in trial.pair:
            decoys += 1
            missed += winner in (None, test.decoy)
        else:
            chosen[winner] += 1
    wins, losses = chosen[test.first], chosen[test.second]
    p = sign_test(wins, losses)
    return Verdict(test.first, test.second, wins, losses, chosen[None], p, decoys, missed)


def begin_test(
    workspace: Workspace,
    sheet: Sheet,
    first: str,
    second: str,
    decoy: str | None = "base",
    seed: int | None = None,
) -> BlindTest:
    """Make a test of a drawing's pictures: a trial for each prompt and seed, and some decoys.

    Args:
        first, second: Labels of the columns to judge.
        decoy: Label of the column that ought to lose; left out where the drawing has none such.
        seed: Of the order and the sides. None: nobody knows it.

    Raises:
        StudioError: the drawing lacks a column, or has no pair of pictures yet; or they cannot be
            written.
    """
    labels = [column.label for column in sheet.request.columns]
    for label in (first, second):
        if label not in labels or first == second:
            raise StudioError(
                f"expected two different columns of this drawing; got {first!r} and {second!r}."
            )
    decoy = decoy if decoy in labels and decoy not in (first, second) else None
    chance = random.Random(secrets.randbits(64) if seed is None else seed)
    pairs = _pairs(_rows(workspace, sheet), first, second, decoy, chance)
    test = BlindTest(secrets.token_hex(8), sheet.id, first, second, decoy, ())
    folder = _folder(workspace, test)
    trials = []
    with writing("a blind test", folder):
        folder.mkdir(parents=True, mode=0o700)
        for prompt, *two in pairs:
            chance.shuffle(two)
            names = [f"{secrets.token_hex(8)}.png" for _ in two]
            for (_, file), name in zip(two, names):
                _copy_bare(file, folder / name)
            (left, _), (right, _) = two
            trials.append(Trial(prompt, left, right, (names[0], names[1])))
        test = replace(test, trials=tuple(trials))
        keep_test(workspace, test)
    return test


@dataclass(frozen=True)
class _Row:
    """What stands in one row of a drawing: a prompt, and the columns' pictures that are there."""

    prompt: str
    files: dict[str, Path]

    def has(self, *labels: str) -> bool:
        return all(label in self.files for label in labels)

    def pair(self, one: str, other: str) -> tuple[str, tuple[str, Path], tuple[str, Path]]:
        return self.prompt, (one, self.files[one]), (other, self.files[other])


def _rows(workspace: Workspace, sheet: Sheet) -> list[_Row]:
    rows = []
    for p, prompt in enumerate(sheet.request.prompts):
        for s in range(len(sheet.request.seeds)):
            found = {
                column.label: sheet.file(workspace, (c, p, s))
                for c, column in enumerate(sheet.request.columns)
            }
            files = {label: file for label, file in found.items() if file is not None}
            rows.append(_Row(prompt, files))
    return rows


def _pairs(
    rows: list[_Row], first: str, second: str, decoy: str | None, chance: random.Random
) -> list[tuple[str, tuple[str, Path], tuple[str, Path]]]:
    """What is to be judged, in random order: a quarter as many decoys as pairs, two at least.

    Raises:
        StudioError: there is no pair of pictures.
    """
    chance.shuffle(rows)
    pairs = [row.pair(first, second) for row in rows if row.has(first, second)][:PAIRS_LIMIT]
    if not pairs:
        raise StudioError(
            "there is no pair of pictures to judge yet. Wait until some are there, then try again."
        )
    if decoy is not None:
        complete = [row for row in rows if row.has(first, second, decoy)]
        for number, row in enumerate(complete[: max(2, len(pairs) // 4)]):
            pairs.append(row.pair((first, second)[number % 2], decoy))
    chance.shuffle(pairs)
    return pairs


def _copy_bare(source: Path, target: Path) -> None:
    """The pixels alone: a recipe would tell whose they are, and so would the file's time."""
    with open_image(source) as image:
        Image.frombytes(image.mode, image.size, image.tobytes()).save(target, format="PNG")
    os.utime(target, (0, 0))


def _folder(workspace: Workspace, test: BlindTest) -> Path:
    return workspace.pictures / test.sheet / TESTS / test.id


def pictures_of(workspace: Workspace, test: BlindTest, number: int) -> tuple[Path, Path]:
    """The pictures of one trial, left and right."""
    left, right = test.trials[number].files
    folder = _folder(workspace, test)
    return folder / left, folder / right


def keep_test(workspace: Workspace, test: BlindTest) -> None:
    """Keep how a test stands, beside its pictures; once it is over, its verdict too."""
    values: dict[str, Any] = asdict(test)
    if test.is_over:
        values["verdict"] = asdict(verdict_of(test))
    # Hidden, so that it is not served: who reads it knows the sides.
    write_text(_folder(workspace, test) / ".test.json", json.dumps(values, indent=1) + "\n")


def find_tests(workspace: Workspace, sheet: Sheet) -> list[BlindTest]:
    """A drawing's tests, the newest first; damaged ones are left out."""
    files = (sheet.folder(workspace) / TESTS).glob("*/.test.json")
    tests = [(file.stat().st_mtime, _read(file)) for file in files]
    whole = [(age, test) for age, test in tests if test is not None]
    return [test for _, test in sorted(whole, key=lambda pair: -pair[0])]


def _read(file: Path) -> BlindTest | None:
    try:
        values: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        trials = tuple(
            Trial(**{**trial, "files": tuple(trial["files"])}) for trial in values["trials"]
        )
        known = {name: values[name] for name in ("id", "sheet", "first", "second", "decoy")}
        return BlindTest(**known, trials=trials, answers=tuple(values["answers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
