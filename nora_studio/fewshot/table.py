"""Table 2's shape from finished cells: methods by shots, mean and interval over seeds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.tables import mean_and_interval


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
