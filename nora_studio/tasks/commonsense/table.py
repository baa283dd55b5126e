"""Format results as Table 1: methods by sets, with trained parameters, time and memory."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nora_studio.options.options_file import parse
from nora_studio.runs.runs import Run
from nora_studio.runs.strict_json import JsonObject
from nora_studio.scoring.statistics import mean_of
from nora_studio.scoring.tables import BY_CHANCE, counted_units, difference_lines, rate_notes
from nora_studio.tasks.commonsense.options import PARTS, CommonsenseOptions
from nora_studio.tasks.commonsense.results import RESULTS
from nora_studio.tasks.commonsense.rows import SETS
from nora_studio.tasks.commonsense.settings import part_settings


@dataclass(frozen=True)
class Entry:
    """A row of the table: a method with a rank."""

    label: str
    method: str
    flags: tuple[str, ...] = ()
    """Flags of the trainer, besides the method."""

    @property
    def name(self) -> str:
        """The stem of its files' names."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.label.lower())


(PART,) = PARTS
ENTRIES = (
    Entry("NoRA 128 x 16", "nora", ("--decoder.rank", "16", "--decoder.outer-rank", "128")),
    Entry("LoRA 4", "lora", ("--decoder.rank", "4")),
    Entry("LoRA 16", "lora", ("--decoder.rank", "16")),
    Entry("LoKr 16", "lokr", ("--decoder.rank", "16")),
    Entry("AdaLoRA 8", "adalora", ("--decoder.rank", "8")),
)
"""Rows on the embedded model: NoRA trains 0.16M parameters there, LoRA 0.10M and 0.41M."""
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
RECORD = ("cells", "rates", "tried")
"""Keys of the table's record, besides its settings."""
AVERAGE = "average"
"""Name of the column of the mean over the sets."""


def rate_of(flags: Sequence[str]) -> float:
    """Return the learning rate that a row's flags of the trainer resolve to."""
    options = parse(CommonsenseOptions, flags)
    return part_settings(options, options.method)[PART].learning_rate


def cell_of(run: Run | None, answers: Path) -> JsonObject:
    """Read one row's figures from a finished run and its answers.

    Args:
        run: None for the base without an adapter.
        answers: Folder written by evaluation/commonsense.py.
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


def page(record: Mapping[str, Any]) -> str:
    """Write the whole page: the table, what its intervals cover, and every difference.

    Args:
        record: `cells` for `markdown`, each with its `seed`; `rates` and `tried` by label, for
            `rate_notes`.
    """
    cells = record["cells"]
    rows = _averages(cells)
    lines = [markdown(cells), ""]
    trained = {cell["label"]: 0 for cell in cells if "parameters" in cell}
    if trained:
        seeds = counted_units((len(rows[label]) for label in trained), "seeds")
        lines += [
            f"Means over {seeds}. ± is the 95% interval of the average by Student's t over seeds "
            "of batches and adapters: it covers other seeds on these questions and this model, not "
            "other questions. What does not train, or has a single seed, has no interval.",
            "",
        ]
    for note in rate_notes(record["rates"], record["tried"]):
        lines += [note, ""]
    pairs = {label: {"avg.": values} for label, values in rows.items()}
    lines += [
        "### Differences of the average, in points",
        "",
        *difference_lines(pairs, ["avg."], 1),
    ]
    return "\n".join([*lines, "", BY_CHANCE]) + "\n"


def _averages(cells: Sequence[JsonObject]) -> dict[str, dict[int, float]]:
    """Return row -> seed -> average accuracy in percent; untrained rows repeat theirs by seed."""
    seeds = {cell["seed"] for cell in cells if "parameters" in cell}
    rows: dict[str, dict[int, float]] = {}
    for cell in cells:
        own = [cell["seed"]] if "parameters" in cell else sorted(seeds) or [cell["seed"]]
        for seed in own:
            rows.setdefault(cell["label"], {})[seed] = 100 * cell["average"]
    return rows


def markdown(cells: Sequence[JsonObject]) -> str:
    """Format rows as a table, with the best of each set in bold.

    Args:
        cells: Cells from `cell_of` with their `label`, in the order of the rows. Cells of one label
            are the seeds of a row, which has their mean, and the 95% interval of the average.
    """
    head = ["method", "params", *SHORT.values(), "avg.", "s/step", "GiB"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    columns = (*SETS, AVERAGE)
    rows: dict[str, list[JsonObject]] = {}
    for cell in cells:
        rows.setdefault(cell["label"], []).append(cell)
    means = {label: _means(own) for label, own in rows.items()}
    # Rounded as printed, so that equal numbers get the same mark.
    best: dict[str, float] = {}
    for label, own in rows.items():
        if "parameters" in own[0]:
            best |= {name: max(best.get(name, 0), value) for name, value in means[label].items()}
    for cell in cells[:1]:
        chance = {**cell["chance"], AVERAGE: cell["average_chance"]}
        guesses = [_percent(100 * chance[name]) if name in chance else "" for name in columns]
        lines.append(_row(["guessing", "", *guesses, "", ""]))
    for label, own in rows.items():
        is_trained = "parameters" in own[0]
        mean = means[label]
        values = [
            _percent(mean[name], is_trained and mean[name] == best[name]) if name in mean else ""
            for name in columns
        ]
        # Without training all seeds give the same result: they are one unit.
        half = mean_of([100 * cell["average"] for cell in own]).half if is_trained else None
        values[-1] += "" if half is None else f" ± {half:.1f}"
        costs = ["", "", ""]
        if is_trained:
            costs = [
                f"{own[0]['parameters'] / 1e6:.2f}M",
                f"{statistics.median(cell['seconds_per_step'] for cell in own):.3f}",
                f"{max(cell['memory_gib'] for cell in own):.2f}",
            ]
        lines.append(_row([label, costs[0], *values, *costs[1:]]))
    return "\n".join(lines)


def _means(cells: Sequence[JsonObject]) -> dict[str, float]:
    """Return the accuracy of each set and the average, in percent to a tenth."""
    found = [{**cell["accuracy"], AVERAGE: cell["average"]} for cell in cells]
    return {name: round(100 * statistics.fmean(one[name] for one in found), 1) for name in found[0]}


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _percent(value: float, is_best: bool = False) -> str:
    return f"**{value:.1f}**" if is_best else f"{value:.1f}"
