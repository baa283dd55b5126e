"""Format finished cells as Table 2: methods by shots, mean and interval over seeds."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.runs.strict_json import JsonObject
from nora_studio.scoring.statistics import Mean, mean_of
from nora_studio.scoring.tables import (
    AT_EDGE,
    BY_CHANCE,
    counted_units,
    difference_lines,
    rate_caveat,
    rate_notes,
)

RECORD = ("cells", "rates", "tried", "seconds_per_step")
"""Keys of the table's record, besides its settings."""


@dataclass(frozen=True)
class Cell:
    """A method with a number of shots and a seed."""

    method: str
    shots: int
    seed: int

    @property
    def name(self) -> str:
        """The stem of its files' names."""
        return f"{self.method}-{self.shots}shots-seed{self.seed}"


def read_cell(file: Path) -> JsonObject | None:
    """Read a finished cell; None if it is missing or was truncated by a crash."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) and "accuracy" in values else None


def check_alike(cells: Sequence[JsonObject]) -> None:
    """Refuse cells that were trained on different devices, in other precisions or versions.

    Raises:
        StudioError: two cells differ.
    """
    for name in ("device", "precision", "version"):
        found = sorted({str(cell.get(name)) for cell in cells})
        if len(found) > 1:
            raise StudioError(
                f"these cells differ in {name}: {', '.join(found)}. Train all cells of a table in "
                "the same way, with another --out."
            )


def page(record: Mapping[str, Any]) -> str:
    """Write the whole page: the table, what its intervals cover, and every difference.

    Args:
        record: `cells` from `read_cell`; and by method `rates`, the learning rate it was trained
            with, `tried`, the validation accuracy at each rate, and `seconds_per_step`.
    """
    cells, methods = record["cells"], list(record["rates"])
    shots = list(dict.fromkeys(cell["shots"] for cell in cells))
    chosen = {method: rate for method, rate in record["rates"].items() if rate is not None}
    # Keys in JSON are strings.
    tried = {method: [float(rate) for rate in own] for method, own in record["tried"].items()}
    edges = [m for m, rate in chosen.items() if rate_caveat(rate, tried.get(m, ())) == AT_EDGE]
    rows: dict[str, dict[str, dict[int, float]]] = {method: {} for method in methods}
    for cell in cells:
        column = rows[cell["method"]].setdefault(_shots(cell["shots"]), {})
        column[cell["seed"]] = 100 * cell["accuracy"]
    counts = [len(column) for method in chosen for column in rows[method].values()]
    notes = rate_notes(chosen, tried)
    if counts:
        seeds = counted_units(counts, "seeds")
        notes.insert(
            0,
            f"Means over {seeds}. ± is the 95% interval of the mean by Student's t over seeds of "
            "shots, batches and adapters: it covers other seeds on this data set and model, not "
            "other data. What does not train, or has a single seed, has no interval.",
        )
    table = as_markdown(cells, methods, shots, record["seconds_per_step"], edges)
    columns = [_shots(count) for count in shots]
    differences = "\n".join(difference_lines(rows, columns, 1))
    heading = "### Differences of accuracy, in points"
    return "\n\n".join([table.rstrip(), *notes, heading, differences, BY_CHANCE]) + "\n"


def as_markdown(
    cells: Sequence[JsonObject],
    methods: Sequence[str],
    shots: Sequence[int],
    paces: Mapping[str, float],
    edges: Collection[str] = (),
) -> str:
    """Write the table: accuracy in percent, the best of each column bold, the second underlined.

    Args:
        cells: Cells from `read_cell`.
        methods: Rows, in this order.
        shots: Columns, in this order.
        paces: Seconds per step of each method, measured alone on the device.
        edges: Methods whose rate is at the edge of its grid.
    """
    lines = [
        f"| method | parameters | {' | '.join(_shots(n) for n in shots)} | ms a step | rate |",
        "|---|---|" + "---|" * len(shots) + "---|---|",
    ]
    columns = [_column(cells, methods, count) for count in shots]
    for method in methods:
        own = [cell for cell in cells if cell["method"] == method]
        parameters = f"{own[0]['parameters']:,}" if own else ""
        pace = f"{1000 * paces[method]:.1f}" if method in paces else ""
        rates = own[0].get("learning_rate") if own else None
        # LoRA+ has two rates; the lower one is the option's value.
        rate = f"{min(rates.values()):g}" if rates else ""
        rate += " (edge)" if method in edges else ""
        marks = " | ".join(column.get(method, "") for column in columns)
        lines.append(f"| {method} | {parameters} | {marks} | {pace} | {rate} |")
    return "\n".join(lines) + "\n"


def _shots(count: int) -> str:
    return f"{count} shot{'s' if count > 1 else ''}"


def _column(cells: Sequence[JsonObject], methods: Sequence[str], shots: int) -> dict[str, str]:
    found: dict[str, Mean] = {}
    for method in methods:
        own = [cell for cell in cells if cell["method"] == method and cell["shots"] == shots]
        if own:
            found[method] = mean_of([100 * cell["accuracy"] for cell in own])
            if not own[0]["parameters"]:
                # Without training all seeds give the same result: they are one unit.
                found[method] = found[method]._replace(half=None, units=1)
    # Rounded as printed, so that equal numbers get the same mark.
    ranked = sorted({round(mean, 1) for mean, _, _ in found.values()}, reverse=True)
    marks = dict(zip(ranked, ("**{}**", "<u>{}</u>"), strict=False))
    words = {}
    for method, (mean, half, _) in found.items():
        text = marks.get(round(mean, 1), "{}").format(f"{mean:.1f}")
        words[method] = text if half is None else f"{text} ± {half:.1f}"
    return words
