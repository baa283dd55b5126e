"""Save answers as JSON lines, and summarise them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.mini.everyday.questions import Row
from nora_studio.runs.atomic import write_text
from nora_studio.tasks.commonsense.answers import chance, macro_average
from nora_studio.tasks.commonsense.generation import Answer
from nora_studio.tasks.commonsense.rows import SETS

ASKED = "asked.json"
RESULTS = "results.json"
_SHARD = re.compile(r"answers-(\d+)-of-(\d+)\.jsonl")


def check_same_evaluation(folder: Path, asked: Mapping[str, Any]) -> None:
    """Save the settings of an evaluation, or refuse a folder with other settings.

    Raises:
        StudioError: the folder was started with other settings; the message names the first.
    """
    file = folder / ASKED
    folder.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        write_text(file, json.dumps(asked, indent=1) + "\n")
        return
    began = json.loads(file.read_text(encoding="utf-8"))
    for name in asked:
        if began.get(name) != json.loads(json.dumps(asked[name])):
            raise StudioError(
                f"--out: {folder} was started with {name} {began.get(name)!r}; got "
                f"{asked[name]!r}. Choose another folder."
            )


def shard_file(folder: Path, shard: int, shards: int) -> Path:
    """Return the file of a shard's answers."""
    return folder / f"answers-{shard}-of-{shards}.jsonl"


def append_answers(file: Path, answers: Sequence[Answer]) -> None:
    """Append answers, a line each."""
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(asdict(answer)) + "\n" for answer in answers)


def read_answers(folder: Path) -> dict[tuple[str, int], Answer]:
    """Read the answers of all shards by set and number; a line truncated by a crash is left out."""
    found: dict[tuple[str, int], Answer] = {}
    for file in sorted(folder.glob("answers-*.jsonl")):
        if not _SHARD.fullmatch(file.name):
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                answer = Answer(**json.loads(line))
            except (json.JSONDecodeError, TypeError):
                continue
            found[answer.name, answer.number] = answer
    return found


def drop_partial_line(file: Path) -> None:
    """Remove a truncated line from the end of a shard's file, so that the next one is valid."""
    if file.is_file() and (text := file.read_bytes()) and not text.endswith(b"\n"):
        whole = text[: text.rfind(b"\n") + 1]
        write_text(file, whole.decode("utf-8"))


def summary(rows: Mapping[str, list[Row]], answers: Mapping[tuple[str, int], Answer]) -> dict:
    """Compute each set's accuracy by exact match, their macro average, and what is missing.

    Returns:
        accuracy, chance and count by set; average and average_chance; the numbers of questions
        answered and asked; absent sets.
    """
    accuracy, guess, count = {}, {}, {}
    for name, members in rows.items():
        given = [answers[name, n] for n in range(len(members)) if (name, n) in answers]
        if not given:
            continue
        right = sum(answer.prediction == answer.answer for answer in given)
        accuracy[name] = right / len(given)
        guess[name] = chance(name, members)
        count[name] = len(given)
    return {
        "accuracy": accuracy,
        "chance": guess,
        "count": count,
        "average": macro_average(accuracy) if accuracy else None,
        "average_chance": macro_average(guess) if guess else None,
        "answered": sum(count.values()),
        "asked": sum(map(len, rows.values())),
        "absent": [name for name in SETS if name not in accuracy],
    }


def format_report(found: Mapping[str, Any]) -> str:
    """Format a summary as a table for the terminal."""
    lines = [f"{'set':15} {'right':>6} {'chance':>6} {'asked':>6}"]
    for name, value in found["accuracy"].items():
        lines.append(
            f"{name:15} {value:6.1%} {found['chance'][name]:6.1%} {found['count'][name]:6d}"
        )
    if found["average"] is None:
        return "No questions are answered yet."
    which = "eight" if not found["absent"] else f"{len(found['accuracy'])} of eight"
    lines.append(f"{'average':15} {found['average']:6.1%} {found['average_chance']:6.1%} ({which})")
    if found["absent"]:
        lines.append(f"Missing sets: {', '.join(found['absent'])}.")
    if found["answered"] < found["asked"]:
        lines.append(f"{found['answered']} of {found['asked']} questions are answered.")
    return "\n".join(lines)
