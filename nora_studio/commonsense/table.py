"""Table 1's shape: methods by sets, with what each trains, and what that took."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nora_studio.commonsense.results import RESULTS
from nora_studio.commonsense.rows import SETS
from nora_studio.runs import Run


@dataclass(frozen=True)
class Entry:
    """One row of the table: a method at a size."""

    label: str
    method: str
    flags: tuple[str, ...] = ()
    """Of the trainer, beside the method."""

    @property
    def name(self) -> str:
        """Of its files."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.label.lower())


ENTRIES = (
    Entry("NoRA 128 x 16", "nora", ("--decoder.rank", "16", "--decoder.outer-rank", "128")),
    Entry("LoRA 4", "lora", ("--decoder.rank", "4")),
    Entry("LoRA 16", "lora", ("--decoder.rank", "16")),
    Entry("LoKr 16", "lokr", ("--decoder.rank", "16")),
    Entry("AdaLoRA 8", "adalora", ("--decoder.rank", "8")),
)
"""On the embedded model: NoRA trains 0.16M numbers there, LoRA 0.10M and 0.41M."""
SHORT = {
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "social_i_qa": "SIQA",
    "hellaswag": "HellaS.",
    "winogrande": "WinoG.",
    "ARC-Easy": "ARC-e",
    "ARC-Challenge": "ARC-c",
    "openbookqa": "OBQA",
}


def cell_of(run: Run | None, answers: Path) -> dict[str, Any]:
    """What one row comes to, from a finished run and its answers.

    Args:
        run: None: the base alone.
        answers: Folder that evaluation/commonsense.py wrote.
    """
    found = json.loads((answers / RESULTS).read_text(encoding="utf-8"))
    cell = {name: found[name] for name in ("accuracy", "chance", "average", "average_chance")}
    if run is None:
        return cell
    log = [row for row in run.read_log() if "loss" in row]
    card = json.loads((run.adapter / "card.json").read_text(encoding="utf-8"))
    return {
        **cell,
        "parameters": card["parameters"],
        "steps": run.planned_steps,
        "seconds_per_step": statistics.median(row["seconds_per_step"] for row in log),
        "memory_gib": max(row["memory_gib"] for row in log),
    }


def markdown(cells: Mapping[str, dict[str, Any]], chance: Mapping[str, float] | None) -> str:
    """The rows there are as a table, the best of each set bold.

    Args:
        cells: By label, in the order of the rows.
        chance: What guessing comes to, by set; None: told nowhere.
    """
    head = ["method", "params", *SHORT.values(), "avg.", "s/step", "GiB"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    trained = {label: cell for label, cell in cells.items() if "parameters" in cell}
    best = {
        name: max((cell["accuracy"].get(name, 0.0) for cell in trained.values()), default=None)
        for name in SETS
    }
    top = max((cell["average"] for cell in trained.values()), default=None)
    if chance is not None:
        guesses = [_percent(chance.get(name)) for name in SETS]
        mean = sum(chance.values()) / len(chance)
        lines.append(_row(["guessing", "", *guesses, _percent(mean), "", ""]))
    for label, cell in cells.items():
        is_trained = label in trained
        values = [
            _percent(cell["accuracy"].get(n), is_trained and cell["accuracy"].get(n) == best[n])
            for n in SETS
        ]
        average = _percent(cell["average"], is_trained and cell["average"] == top)
        costs = ["", "", ""]
        if is_trained:
            costs = [
                f"{cell['parameters'] / 1e6:.2f}M",
                f"{cell['seconds_per_step']:.3f}",
                f"{cell['memory_gib']:.2f}",
            ]
        lines.append(_row([label, costs[0], *values, average, *costs[1:]]))
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _percent(value: float | None, is_best: bool = False) -> str:
    if value is None:
        return ""
    text = f"{100 * value:.1f}"
    return f"**{text}**" if is_best else text
