"""Blind tests in a visitor's folder: random sides, hidden names, the base as a decoy.

Until a test ends, nothing that the page receives reveals the sides: images have random names, no
recipes, and all the same modification time.
"""

import json
import os
import random
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from nora_studio.app.server.blind_test import BlindPair, BlindTest, verdict_of
from nora_studio.app.server.image_jobs import ImageJob
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.photos.opening import open_image
from nora_studio.runs.atomic import write_text
from nora_studio.runs.disk_errors import writing

TESTS = "blind"
"""Folder of an image job's tests."""
PAIRS_LIMIT = 40


def create_test(
    workspace: Workspace,
    image_job: ImageJob,
    first: str,
    second: str,
    decoy: str | None = "base",
    seed: int | None = None,
) -> BlindTest:
    """Create a test of a job's images: a pair for each prompt and seed, and some decoys.

    Args:
        first, second: Labels of the columns to judge.
        decoy: Label of the column that should lose; ignored if the job has no such column.
        seed: Seed of the order and the sides. None: random.

    Raises:
        StudioError: the job lacks a column or has no pair of images yet; or they cannot be
            written.
    """
    labels = [column.label for column in image_job.request.columns]
    for label in (first, second):
        if label not in labels or first == second:
            raise StudioError(
                f"expected two different columns of this comparison; got {first!r} and {second!r}."
            )
    decoy = decoy if decoy in labels and decoy not in (first, second) else None
    rng = random.Random(secrets.randbits(64) if seed is None else seed)
    pairs = _pairs(_rows(workspace, image_job), first, second, decoy, rng)
    test = BlindTest(secrets.token_hex(8), image_job.id, first, second, decoy, ())
    folder = _folder(workspace, test)
    trials = []
    with writing("a blind test", folder):
        folder.mkdir(parents=True, mode=0o700)
        for prompt, *two in pairs:
            rng.shuffle(two)
            names = [f"{secrets.token_hex(8)}.png" for _ in two]
            for (_, file), name in zip(two, names, strict=True):
                _copy_pixels(file, folder / name)
            (left, _), (right, _) = two
            trials.append(BlindPair(prompt, left, right, (names[0], names[1])))
        test = replace(test, trials=tuple(trials))
        save_test(workspace, test)
    return test


@dataclass(frozen=True)
class _Row:
    """One row of a job: a prompt, and the images that its columns have."""

    prompt: str
    files: dict[str, Path]

    def has(self, *labels: str) -> bool:
        return all(label in self.files for label in labels)

    def pair(self, one: str, other: str) -> tuple[str, tuple[str, Path], tuple[str, Path]]:
        return self.prompt, (one, self.files[one]), (other, self.files[other])


def _rows(workspace: Workspace, image_job: ImageJob) -> list[_Row]:
    rows = []
    for p, prompt in enumerate(image_job.request.prompts):
        for s in range(len(image_job.request.seeds)):
            found = {
                column.label: image_job.file(workspace, (c, p, s))
                for c, column in enumerate(image_job.request.columns)
            }
            files = {label: file for label, file in found.items() if file is not None}
            rows.append(_Row(prompt, files))
    return rows


def _pairs(
    rows: list[_Row], first: str, second: str, decoy: str | None, rng: random.Random
) -> list[tuple[str, tuple[str, Path], tuple[str, Path]]]:
    """Return the pairs to judge in random order, with a quarter as many decoys, at least two.

    Raises:
        StudioError: there is no pair of images.
    """
    rng.shuffle(rows)
    pairs = [row.pair(first, second) for row in rows if row.has(first, second)][:PAIRS_LIMIT]
    if not pairs:
        raise StudioError(
            "no prompt and seed has an image of both adapters yet. Wait if images are still being "
            "generated; else generate them again."
        )
    if decoy is not None:
        complete = [row for row in rows if row.has(first, second, decoy)]
        for number, row in enumerate(complete[: max(2, len(pairs) // 4)]):
            pairs.append(row.pair((first, second)[number % 2], decoy))
    rng.shuffle(pairs)
    return pairs


def _copy_pixels(source: Path, target: Path) -> None:
    """Copy the pixels alone: a recipe or the file's time would reveal the column."""
    with open_image(source) as image:
        Image.frombytes(image.mode, image.size, image.tobytes()).save(target, format="PNG")
    os.utime(target, (0, 0))


def _folder(workspace: Workspace, test: BlindTest) -> Path:
    return workspace.pictures / test.image_job / TESTS / test.id


def pair_images(workspace: Workspace, test: BlindTest, number: int) -> tuple[Path, Path]:
    """Return the images of one pair, left and right."""
    left, right = test.trials[number].files
    folder = _folder(workspace, test)
    return folder / left, folder / right


def save_test(workspace: Workspace, test: BlindTest) -> None:
    """Write a test next to its images; once it has ended, with its verdict."""
    values: dict[str, Any] = asdict(test)
    values["sheet"] = values.pop("image_job")  # The key that earlier versions wrote.
    if test.is_over:
        values["verdict"] = asdict(verdict_of(test))
    # A hidden file is not served: it would reveal the sides.
    write_text(_folder(workspace, test) / ".test.json", json.dumps(values, indent=1) + "\n")


def find_tests(workspace: Workspace, image_job: ImageJob) -> list[BlindTest]:
    """Return an image job's tests, newest first; damaged ones are left out."""
    files = (image_job.folder(workspace) / TESTS).glob("*/.test.json")
    tests = [(file.stat().st_mtime, _read(file)) for file in files]
    whole = [(age, test) for age, test in tests if test is not None]
    return [test for _, test in sorted(whole, key=lambda pair: -pair[0])]


def _read(file: Path) -> BlindTest | None:
    try:
        values: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        trials = tuple(
            BlindPair(**{**trial, "files": tuple(trial["files"])}) for trial in values["trials"]
        )
        known = {name: values[name] for name in ("id", "first", "second", "decoy")}
        return BlindTest(
            **known, image_job=values["sheet"], trials=trials, answers=tuple(values["answers"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
