"""Read commonsense questions: from LLM-Adapters' JSON files, or about the embedded world."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.mini.everyday.questions import SETS, Row, questions

__all__ = [
    "EMBEDDED",
    "SETS",
    "Row",
    "digest",
    "evaluation_rows",
    "read_rows",
    "split",
    "training_rows",
]

EMBEDDED = "embedded"
KEYS = ("instruction", "input", "output", "answer")
TRAINING_ROWS = 1500
"""Maximum of each set about the embedded world; some have fewer facts."""
TEST_ROWS = 200


def read_rows(file: Path) -> list[Row]:
    """Read the rows of one JSON file.

    Raises:
        StudioError: the file cannot be read, or a row lacks one of `KEYS`.
    """
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudioError(f"--data: {file} cannot be read: {error.strerror}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StudioError(f"--data: {file} is not valid JSON: {error}.") from error
    for number, row in enumerate(rows if isinstance(rows, list) else [None]):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in KEYS):
            raise StudioError(
                f"--data: {file} must be a list of rows with the texts {', '.join(KEYS)}; row "
                f"{number} is {str(row)[:60]!r}."
            )
    return rows


def training_rows(data: str) -> dict[str, list[Row]]:
    """Read the rows to train on, by file or set.

    Args:
        data: "embedded"; a JSON file such as commonsense_170k.json; or a folder of sets, each with
            its train.json.

    Raises:
        StudioError: there are no rows.
    """
    if data == EMBEDDED:
        return {name: questions(name, "train", TRAINING_ROWS) for name in SETS}
    place = Path(data).expanduser()
    if place.is_file():
        return {place.name: read_rows(place)}
    return {file.parent.name: read_rows(file) for file in _files(place, "train.json")}


def evaluation_rows(
    data: str, sets: Sequence[str] = (), limit: int | None = None
) -> dict[str, list[Row]]:
    """Read the test rows of each set, in the order of `SETS`.

    Args:
        data: "embedded", or a folder of sets, each with its test.json.
        sets: Names of sets; empty for all that exist.
        limit: Maximum number of rows of each, from the first.

    Raises:
        StudioError: a requested set, or all of them, are missing.
    """
    if data == EMBEDDED:
        found = {name: questions(name, "test", TEST_ROWS) for name in sets or SETS}
    else:
        place = Path(data).expanduser()
        files = {file.parent.name: file for file in _files(place, "test.json")}
        missing = [name for name in sets if name not in files]
        if missing:
            lacking = ", ".join(f"{name}/test.json" for name in missing)
            raise StudioError(
                f"--sets: {place} lacks {lacking}. Add what is missing, or leave those sets out."
            )
        chosen = [name for name in SETS if name in (sets or files)]
        found = {name: read_rows(files[name]) for name in chosen}
    return {name: rows[:limit] for name, rows in found.items()}


def digest(rows: Sequence[Row]) -> str:
    """Return a digest of some rows."""
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def _files(place: Path, name: str) -> list[Path]:
    files = sorted(file for file in place.glob(f"*/{name}") if file.parent.name in SETS)
    if not files:
        raise StudioError(
            f"--data: expected 'embedded', a folder of sets such as boolq/{name}, or for training "
            f"a JSON file of rows; got {place}, which is none of these. Check the path."
        )
    return files


def split(
    found: Mapping[str, Sequence[Row]], validation: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Return all rows to train on, and those held out for validation, sampled with a seed.

    Raises:
        StudioError: no row is left to train on.
    """
    rows = [row for group in found.values() for row in group]
    if validation >= len(rows):
        raise StudioError(
            f"--validation: expected to hold out fewer than the {len(rows)} questions; got "
            f"{validation}."
        )
    kept_out = set(random.Random(seed).sample(range(len(rows)), validation))
    numbered = list(enumerate(rows))
    return (
        [row for number, row in numbered if number not in kept_out],
        [row for number, row in numbered if number in kept_out],
    )
