"""A comparison's results as data, as Markdown and as text for a terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nora_studio.scoring.compare import Drawing, Entrant, Finding, Scores, mean_by_prompt
from nora_studio.scoring.statistics import UNITS_FOR_A_VERDICT, coverage

Tables = dict[str, list[list[str]]]
"""Heading -> rows, the first of them the column labels."""

NOTE = (
    "CLIP-T: cosine of a picture with its prompt, the rare word left out. CLIP-I and DINO: mean "
    "cosine with the real photos. Pairs share prompt, seed and starting noise. Intervals are those "
    f"of an expanded percentile bootstrap; of fewer than {UNITS_FOR_A_VERDICT} units, Student's t."
)


def describe_results(
    entrants: Sequence[Entrant], drawing: Drawing, scores: Scores, findings: Sequence[Finding]
) -> dict[str, Any]:
    """Everything measured, ready for JSON."""
    return {
        "drawing": asdict(drawing),
        "entrants": [_describe_entrant(entrant) for entrant in entrants],
        "scores": {
            name: {
                label: {
                    "mean": _mean(values),
                    "per_prompt": mean_by_prompt(values, drawing),
                    "pictures": values,
                }
                for label, values in columns.items()
            }
            for name, columns in scores.items()
        },
        "differences": [asdict(finding) for finding in findings],
    }


def _describe_entrant(entrant: Entrant) -> dict[str, Any]:
    card = entrant.card
    if card is None:
        return {"label": entrant.label}
    return {
        "label": entrant.label,
        "adapter": str(entrant.path),
        "method": card.method,
        "trigger": card.trigger,
        "parameters": card.parameters,
        "steps": card.steps,
    }


def result_tables(drawing: Drawing, scores: Scores, findings: Sequence[Finding]) -> Tables:
    """Means in all, means by prompt, and paired differences (left out where there are none)."""
    labels = list(next(iter(scores.values())))
    means = [[label, *(f"{_mean(c[label]):.3f}" for c in scores.values())] for label in labels]
    by_prompt = {
        f"{name} {label}": mean_by_prompt(values, drawing)
        for name, columns in scores.items()
        for label, values in columns.items()
    }
    prompts = [
        [prompt, *(f"{column[prompt]:.3f}" for column in by_prompt.values())]
        for prompt in drawing.prompts
    ]
    tables = {"Scores": [["", *scores], *means], "By prompt": [["Prompt", *by_prompt], *prompts]}
    if findings:
        head = ["Score", "Pair", "Difference", "95% interval", "Verdict"]
        tables["Paired differences"] = [head, *(list(finding.row) for finding in findings)]
    return tables


def as_markdown(tables: Tables, drawing: Drawing, judges: str) -> str:
    """A page with every table and the settings behind them.

    Args:
        judges: Who scored: "CLIP embedded, DINO facebook/dino-vits16".
    """
    blocks = ["# Scores of pictures"]
    for heading, rows in tables.items():
        blocks += [f"## {heading}", markdown_table(rows)]
    settings = (
        f"Model {drawing.model}, {judges}, seeds {', '.join(map(str, drawing.seeds))}, "
        f"{drawing.steps} steps, guidance {drawing.guidance:g}, {drawing.size} px, "
        f"strength {drawing.strength:g}."
    )
    covered = coverage(len(drawing.prompts), len(drawing.seeds))
    return "\n\n".join([*blocks, settings, covered, NOTE]) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its head; the first column to the left, the others to the right."""
    head, *rest = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rest]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def as_text(tables: Tables) -> str:
    """The tables in columns of spaces; the first column to the left, the others to the right."""
    blocks = []
    for heading, rows in tables.items():
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
                ]
            ).rstrip()
            for row in rows
        ]
        blocks.append("\n".join([heading, *(f"  {line}" for line in lines)]))
    return "\n\n".join(blocks) + "\n"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
