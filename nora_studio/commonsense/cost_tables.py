"""What a step costs, as pages: each method beside LoRA, and LoRA beside the paper."""

from collections.abc import Sequence
from typing import Any

from nora_studio.commonsense.costs import Variant

PAPER_RATIOS = {"llama-1-7b": (0.88, 0.90), "llama-3-8b": (0.775, 0.97)}
"""Time and memory of NoRA over LoRA of rank 16, as the paper prints them."""


def table(shape: str, cells: Sequence[tuple[Variant, dict[str, Any]]]) -> str:
    """One shape's rows as markdown, ratios to its LoRA of rank 16 beside the paper's."""
    reference = next((cell for variant, cell in cells if variant.is_reference), {})
    lines = [
        f"### {shape}",
        "",
        "| method | parameters | s/step | tokens/s | GiB | time | memory | extra FLOPs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant, cell in cells:
        if "failed" in cell:
            lines.append(f"| {variant.label} | {cell['failed']} | | | | | | |")
            continue
        time_ratio = ratio(cell, reference, "seconds_per_step")
        memory_ratio = ratio(cell, reference, "peak_gib")
        extra = cell["extra_flops"]
        lines.append(
            f"| {variant.label} | {cell['parameters']:,} | {cell['seconds_per_step']:.3f} "
            f"| {cell['tokens_per_second']:,} | {cell['peak_gib']} | {time_ratio} | {memory_ratio} "
            f"| {'' if extra is None else f'{extra:.1%}'} |"
        )
    slower, larger = PAPER_RATIOS[shape]
    lines += ["", f"The paper's NoRA over LoRA 16: time {slower}, memory {larger}."]
    return "\n".join(lines)


def ratio(cell: dict[str, Any], reference: dict[str, Any], name: str) -> str:
    """One figure over the reference's; empty where either is missing."""
    if not cell.get(name) or not reference.get(name):
        return ""
    return f"{cell[name] / reference[name]:.3f}"


def counted_table(shape: str, cells: Sequence[tuple[Variant, dict[str, Any]]]) -> str:
    """One shape's rows as markdown, ratios to its LoRA of rank 16 beside the paper's."""
    reference = next((cell for variant, cell in cells if variant.is_reference), {})
    lines = [
        f"### {shape}, counted",
        "",
        "| method | parameters | TFLOP a step | GiB | products | memory |",
        "|---|---|---|---|---|---|",
    ]
    for variant, cell in cells:
        if "failed" in cell:
            lines.append(f"| {variant.label} | {cell['failed']} | | | | |")
            continue
        products, memory = (ratio(cell, reference, name) for name in ("tflop", "peak_gib"))
        lines.append(
            f"| {variant.label} | {cell['parameters']:,} | {cell['tflop']:.1f} "
            f"| {cell['peak_gib']:.1f} | {products} | {memory} |"
        )
    slower, larger = PAPER_RATIOS[shape]
    lines += ["", f"The paper's NoRA over LoRA 16: time {slower}, memory {larger}."]
    return "\n".join(lines)
