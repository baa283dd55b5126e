"""Extract the answer from a generated text by LLM-Adapters' rule, and average accuracies."""

import re
from collections.abc import Mapping

from nora_studio.mini.everyday.questions import SETS

LABELS = {
    "boolq": ("true", "false"),
    "piqa": ("solution1", "solution2"),
    "social_i_qa": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "hellaswag": ("ending1", "ending2", "ending3", "ending4"),
    "winogrande": ("option1", "option2"),
    "ARC-Easy": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "ARC-Challenge": ("answer1", "answer2", "answer3", "answer4", "answer5"),
    "openbookqa": ("answer1", "answer2", "answer3", "answer4", "answer5"),
}
"""Possible answers in each set, for which `commonsense_evaluate.py` searches."""


def extract_answer(name: str, text: str) -> str:
    """Return the first of the set's labels in a text; empty if there is none."""
    match = re.search("|".join(LABELS[name]), text)
    return match[0] if match else ""


def offered(row: Mapping[str, str]) -> list[str]:
    """Return a row's labels, from the end of its instruction ("answer1/answer2/...")."""
    return row["instruction"].rpartition("format:")[2].strip().split("/")


def macro_average(accuracy: Mapping[str, float]) -> float:
    """Return the unweighted mean over sets."""
    return sum(accuracy.values()) / len(accuracy)


def chance(name: str, rows: list[dict[str, str]]) -> float:
    """Return the accuracy of random guesses among the rows' labels."""
    assert name in SETS
    return sum(1 / len(offered(row)) for row in rows) / len(rows)
