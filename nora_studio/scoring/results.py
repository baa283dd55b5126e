"""The results of a comparison as data, as Markdown, and as text for a terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nora_studio.scoring.compare import (
    ComparisonColumn,
    GenerationSettings,
    ScoreDifference,
    Scores,
    mean_by_prompt,
)
from nora_studio.scoring.statistics import UNITS_FOR_A_VERDICT, coverage

Tables = dict[str, list[list[str]]]
"""Rows by heading; the first row has the column labels."""

NOTE = (
    "CLIP-T: cosine of an image with its prompt, the trigger word left out. CLIP-I and DINO: mean "
    "cosine with the real photos. Pairs share prompt, seed and starting noise. Intervals are those "
    f"of an expanded percentile bootstrap; of fewer than {UNITS_FOR_A_VERDICT} units, Student's t."
)


def describe_results(
    columns: Sequence[ComparisonColumn],
    settings: GenerationSettings,
    scores: Scores,
    findings: Sequence[ScoreDifference],
) -> dict[str, Any]:
    """Return all results as data for JSON."""
    return {
        "drawing": asdict(settings),
        "entrants": [_describe_column(column) for column in columns],
        "scores": {
            name: {
                label: {
                    "mean": _mean(values),
                    "per_prompt": mean_by_prompt(values, settings),
                    "pictures": values,
                }
                for label, values in by_label.items()
            }
            for name, by_label in scores.items()
        },
        "differences": [asdict(finding) for finding in findings],
    }


def _describe_column(column: ComparisonColumn) -> dict[str, Any]:
    card = column.card
    if card is None:
        return {"label": column.label}
    return {
        "label": column.label,
        "adapter": str(column.path),
        "method": card.method,
        "trigger": card.trigger,
        "parameters": card.parameters,
        "steps": card.steps,
    }


def result_tables(
    settings: GenerationSettings, scores: Scores, findings: Sequence[ScoreDifference]
) -> Tables:
    """Return tables of overall means, of means by prompt, and of paired differences if any."""
    labels = list(next(iter(scores.values())))
    means = [[label, *(f"{_mean(c[label]):.3f}" for c in scores.values())] for label in labels]
    by_prompt = {
        f"{name} {label}": mean_by_prompt(values, settings)
        for name, by_label in scores.items()
        for label, values in by_label.items()
    }
    prompts = [
        [prompt, *(f"{column[prompt]:.3f}" for column in by_prompt.values())]
        for prompt in settings.prompts
    ]
    tables = {"Scores": [["", *scores], *means], "By prompt": [["Prompt", *by_prompt], *prompts]}
    if findings:
        head = ["Score", "Pair", "Difference", "95% interval", "Verdict"]
        tables["Paired differences"] = [head, *(list(finding.row) for finding in findings)]
    return tables


def as_markdown(tables: Tables, settings: GenerationSettings, judges: str) -> str:
    """Return a Markdown page with all tables and the settings.

    Args:
        judges: Names of the judges: "CLIP embedded, DINO facebook/dino-vits16".
    """
    blocks = ["# Scores of images"]
    for heading, rows in tables.items():
        blocks += [f"## {heading}", markdown_table(rows)]
    line = (
        f"Model {settings.model}, {judges}, seeds {', '.join(map(str, settings.seeds))}, "
        f"{settings.steps} steps, guidance {settings.guidance:g}, {settings.size} px, "
        f"strength {settings.strength:g}."
    )
    covered = coverage(len(settings.prompts), len(settings.seeds))
    return "\n\n".join([*blocks, line, covered, NOTE]) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as a Markdown table with a header; columns but the first are right-aligned."""
    head, *rest = rows
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rest]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def as_text(tables: Tables) -> str:
    """Format tables as aligned text; all columns but the first are right-aligned."""
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
