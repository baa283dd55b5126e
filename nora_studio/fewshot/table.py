"""Table 2's shape from finished cells: methods by shots, mean and interval over seeds."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nora_studio.errors import StudioError

# Student's t at 97.5%, by degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL = 1.96


@dataclass(frozen=True)
class Cell:
    """One method at one number of shots with one seed."""

    method: str
    shots: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.shots}shots-seed{self.seed}"


def read_cell(file: Path) -> dict[str, Any] | None:
    """A finished cell; None where there is none, or a crash left half of one."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) and "accuracy" in values else None


def check_settings(file: Path, cell: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse a cell that was trained under other settings than the table is asked for.

    Raises:
        StudioError: one differs; it is named with both values.
    """
    began = cell.get("settings", {})
    for name in sorted(began.keys() | settings.keys()):
        if began.get(name) != settings.get(name):
            raise StudioError(
                f"{file} was trained with {name} = {began.get(name)!r}; this table asks for "
                f"{settings.get(name)!r}. Cells of different settings do not go into one table: "
                "ask as before, or take another --out."
            )


def check_alike(cells: Sequence[dict[str, Any]]) -> None:
    """Refuse cells that were trained on different devices or in different precisions.

    Raises:
        StudioError: two differ.
    """
    for name in ("device", "precision", "version"):
        found = sorted({str(cell.get(name)) for cell in cells})
        if len(found) > 1:
            raise StudioError(
                f"these cells differ in {name}: {', '.join(found)}. Train all of a table alike: "
                "take another --out."
            )


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of its 95% interval by Student's t; None from a single value."""
    if len(values) < 2:
        return fmean(values), None
    freedom = len(values) - 1
    t = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL
    return fmean(values), t * stdev(values) / math.sqrt(len(values))


def as_markdown(
    cells: Sequence[dict[str, Any]],
    methods: Sequence[str],
    shots: Sequence[int],
    paces: dict[str, float],
) -> str:
    """The table: accuracy in percent, the best of each column bold, the second underlined.

    Args:
        cells: As `read_cell` gives them.
        methods: Rows, in this order.
        shots: Columns, in this order.
        paces: Seconds a step of each method, where they were measured alone on the device.
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
        # LoRA+ has more than one; the slowest is what it is asked for by.
        rate = f"{min(rates.values()):g}" if rates else ""
        marks = " | ".join(column.get(method, "") for column in columns)
        lines.append(f"| {method} | {parameters} | {marks} | {pace} | {rate} |")
    return "\n".join(lines) + "\n"


def _shots(count: int) -> str:
    return f"{count} shot{'s' if count > 1 else ''}"


def _column(cells: Sequence[dict[str, Any]], methods: Sequence[str], shots: int) -> dict[str, str]:
    found: dict[str, tuple[float, float | None]] = {}
    for method in methods:
        values = [
            100 * cell["accuracy"]
            for cell in cells
            if cell["method"] == method and cell["shots"] == shots
        ]
        if values:
            found[method] = mean_and_interval(values)
    # As they are printed: what reads alike is marked alike.
    ranked = sorted({round(mean, 1) for mean, _ in found.values()}, reverse=True)
    marks = dict(zip(ranked, ("**{}**", "<u>{}</u>"), strict=False))
    words = {}
    for method, (mean, half) in found.items():
        text = marks.get(round(mean, 1), "{}").format(f"{mean:.1f}")
        words[method] = text if half is None else f"{text} ± {half:.1f}"
    return words
