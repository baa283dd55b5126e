"""Tables of a step's cost: each method relative to LoRA, and the paper's ratios."""

from collections.abc import Callable, Mapping, Sequence

from nora_studio.runs.strict_json import JsonObject
from nora_studio.tasks.commonsense.costs import Variant

PAPER_RATIOS = {"llama-1-7b": (0.88, 0.90), "llama-3-8b": (0.775, 0.97)}
"""Time and memory of NoRA over LoRA of rank 16, in the paper."""

Column = Callable[[JsonObject, JsonObject], str]
"""Formats a figure of a row, given its cell and the reference's."""

_PARAMETERS: dict[str, Column] = {"parameters": lambda cell, _: f"{cell['parameters']:,}"}
_MEASURED: dict[str, Column] = {
    **_PARAMETERS,
    "s/step": lambda cell, _: f"{cell['seconds_per_step']:.3f}",
    "tokens/s": lambda cell, _: f"{cell['tokens_per_second']:,}",
    "GiB": lambda cell, _: f"{cell['peak_gib']}",
    "time": lambda cell, reference: ratio(cell, reference, "seconds_per_step"),
    "memory": lambda cell, reference: ratio(cell, reference, "peak_gib"),
    "extra FLOPs": lambda cell, _: (
        "" if cell["extra_flops"] is None else f"{cell['extra_flops']:.1%}"
    ),
}
_COUNTED: dict[str, Column] = {
    **_PARAMETERS,
    "TFLOP a step": lambda cell, _: f"{cell['tflop']:.1f}",
    "GiB": lambda cell, _: f"{cell['peak_gib']:.1f}",
    "products": lambda cell, reference: ratio(cell, reference, "tflop"),
    "memory": lambda cell, reference: ratio(cell, reference, "peak_gib"),
}


def table(shape: str, cells: Sequence[tuple[Variant, JsonObject]]) -> str:
    """Format a shape's measured rows as Markdown, with ratios to its LoRA of rank 16."""
    return _page(shape, shape, cells, _MEASURED)


def counted_table(shape: str, cells: Sequence[tuple[Variant, JsonObject]]) -> str:
    """Format a shape's counted rows as Markdown, with ratios to its LoRA of rank 16."""
    return _page(f"{shape}, counted", shape, cells, _COUNTED)


def _page(
    title: str,
    shape: str,
    cells: Sequence[tuple[Variant, JsonObject]],
    columns: Mapping[str, Column],
) -> str:
    reference = next((cell for variant, cell in cells if variant.is_reference), {})
    lines = [
        f"### {title}",
        "",
        f"| method | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
    ]
    for variant, cell in cells:
        if "failed" in cell:
            words = [cell["failed"], *[""] * (len(columns) - 1)]
        else:
            words = [column(cell, reference) for column in columns.values()]
        lines.append(f"| {variant.label} | {' | '.join(words)} |")
    slower, larger = PAPER_RATIOS[shape]
    lines += ["", f"The paper's NoRA over LoRA 16: time {slower}, memory {larger}."]
    return "\n".join(lines)


def ratio(cell: JsonObject, reference: JsonObject, name: str) -> str:
    """Format a figure divided by the reference's; empty if either is missing."""
    if not cell.get(name) or not reference.get(name):
        return ""
    return f"{cell[name] / reference[name]:.3f}"
