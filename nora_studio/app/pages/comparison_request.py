"""The Compare tab's request: its fields as columns, prompts and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nora_studio.app.server.usable_adapters import UsableAdapter, column_labels, spaced_checkpoints
from nora_studio.errors import StudioError

Layout = Literal["columns", "strengths", "seeds"]
LAYOUTS: tuple[tuple[str, Layout], ...] = (
    ("Side by side", "columns"),
    ("Checkpoints and strengths", "strengths"),
    ("Prompts and seeds", "seeds"),
)
CHIPS = (
    "a photo of a {} on the beach",
    "a photo of a {} in the snow",
    "a photo of a {} in the forest",
    "a photo of a {} on a city street",
    "a photo of a {} on the moon",
    "a photo of a {} under water",
)
"""Places where nearly anything can be photographed; the embedded model was trained on them."""


@dataclass(frozen=True)
class ComparisonFields:
    """The values of the tab's fields."""

    layout: Layout
    adapters: Sequence[UsableAdapter]
    strengths: Sequence[float]
    """One strength for each adapter."""
    together: bool
    prompts: str
    """One prompt per line."""
    seed: float
    seeds: float
    """Number of seeds, counted up from the first."""
    steps: float
    guidance: float
    size: float | None
    negative: str
    sweep: str
    """Strengths of a grid, separated by commas."""
    score: bool
    references: Sequence[str]
    clip: str = ""
    """Name of the judge; empty: the embedded one, on the embedded base."""


def request_of(fields: ComparisonFields) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the request, and what the page needs to show its images again.

    Raises:
        StudioError: a field has a value that cannot be used.
    """
    prompts = [line.strip() for line in fields.prompts.splitlines() if line.strip()]
    if not prompts:
        raise StudioError("write a prompt, or press one of the ready-made ones.")
    prompts = list(dict.fromkeys(prompts))
    first, count = int(fields.seed or 0), int(fields.seeds or 1)
    seeds = list(range(first, first + max(1, min(count, 16))))
    columns, view = _columns(fields)
    if fields.layout == "strengths":
        prompts, seeds = prompts[:1], seeds[:1]
    request = {
        "columns": columns,
        "prompts": prompts,
        "seeds": seeds,
        "steps": fields.steps,
        "guidance": fields.guidance,
        "size": fields.size or None,
        "negative": fields.negative.strip() or None,
        "score": fields.score,
        "references": list(fields.references) if fields.score else [],
        "clip": (fields.clip.strip() or None) if fields.score else None,
    }
    return request, {"layout": fields.layout, **view}


def _columns(fields: ComparisonFields) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    labels = column_labels(list(fields.adapters))
    used = [
        {"path": one.path, "strength": strength}
        for one, strength in zip(fields.adapters, fields.strengths, strict=False)
    ]
    single = [
        {"label": _with_strength(label, use["strength"]), "adapters": [use]}
        for label, use in zip(labels, used, strict=False)
    ]
    view: dict[str, Any] = {"kinds": ["base", *(one.card.method for one in fields.adapters)]}
    if fields.layout == "strengths":
        return _grid(fields, labels)
    if fields.layout == "seeds" and single:
        return single, {"kinds": view["kinds"][1:]}
    columns: list[dict[str, Any]] = [{"label": "base"}, *single]
    if fields.together and len(used) > 1:
        columns.append({"label": " + ".join(column["label"] for column in single),
                        "adapters": used})  # fmt: skip
        view["kinds"].append("mix")
    return columns, view


def _grid(
    fields: ComparisonFields, labels: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each checkpoint and a column for each strength, with the base once."""
    if not fields.adapters:
        raise StudioError("choose an adapter: a grid of strengths needs one.")
    across = _numbers(fields.sweep)
    columns: list[dict[str, Any]] = [{"label": "base"}]
    rows, kinds = [], ["base"]
    for label, one in zip(labels, fields.adapters, strict=True):
        for step, path in (spaced_checkpoints(one) or {one.card.steps: one.path}).items():
            rows.append(f"{label}, step {step}" if step else label)
            for strength in across:
                use = {"path": path, "strength": strength}
                columns.append({"label": f"{rows[-1]} × {strength:g}", "adapters": [use]})
                kinds.append(one.card.method)
    across_names = [f"× {strength:g}" for strength in across]
    return columns, {"kinds": kinds, "rows": rows, "across": across_names}


def _numbers(text: str) -> list[float]:
    try:
        found = [float(word) for word in text.replace(";", ",").split(",") if word.strip()]
    except ValueError:
        found = []
    if not found or len(found) > 8:
        raise StudioError(f"expected 1 to 8 strengths such as 0.5, 1, 1.5; got {text[:60]!r}.")
    return list(dict.fromkeys(found))


def _with_strength(label: str, strength: float) -> str:
    return label if strength == 1 else f"{label} × {strength:g}"
