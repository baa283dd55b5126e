"""Measure Table 1's cost columns: a training step on full-size LLaMA shapes with random weights.

    python evaluation/table1_costs.py --out runs/table1-costs

Writes a JSON file for each method and shape, so that the same command continues after a stop, and
all of them in `costs.json` and `costs.md`. NoRA's outer factors are random orthonormal pairs: the
weights are random too, and a step's cost does not depend on their values. Without a GPU,
`--counted` counts the multiplications and the memory of a step at full size, on tensors without
data, and writes `counted.json` and `counted.md`. Exit status: 0 done, 2 bad input.
"""

import gc
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import write_text
from nora_studio.runs.entry import run_entry
from nora_studio.tasks.commonsense.cost_tables import counted_table, table
from nora_studio.tasks.commonsense.costs import VARIANTS, Variant, build_base, measure, svd_seconds
from nora_studio.tasks.commonsense.counting import count


@dataclass(frozen=True)
class CostOptions:
    """Measure the cost of a training step for each method of Table 1."""

    out: Path = Path("runs/table1-costs")
    """Folder for the results."""
    shapes: tuple[str, ...] = ("llama-1-7b", "llama-3-8b")
    """Models, by the names of `nora-studio params --model`."""
    rows: int = 16
    """Questions per batch, as in the paper."""
    tokens: int = 256
    """Tokens per question, the protocol's cutoff."""
    steps: int = 10
    """Steps to measure, after three to warm up; their median is reported."""
    layers: int | None = None
    """Number of blocks, fewer than the model has, for a quick test. None: all."""
    profile: bool = True
    """Profile one more step of each method."""
    svd: bool = False
    """Also time one exact decomposition per size of layer, at NoRA's largest outer rank."""
    device: str = "cuda"
    """Device to measure on."""
    counted: bool = False
    """Count multiplications and memory instead of measuring; needs no device."""


def main() -> int:
    """Measure or count what is missing, print the tables, and return the exit status."""
    options = parse_command(CostOptions, description=__doc__)
    unknown = [shape for shape in options.shapes if shape not in VARIANTS]
    if unknown:
        raise StudioError(f"--shapes: expected some of {', '.join(VARIANTS)}; got {unknown[0]!r}.")
    device = torch.device(options.device)
    if not options.counted and device.type == "cuda" and not torch.cuda.is_available():
        raise StudioError(
            "--device: expected a GPU, but torch finds none. Use --device cpu, or --counted."
        )
    options.out.mkdir(parents=True, exist_ok=True)
    for shape in options.shapes:
        missing = [v for v in VARIANTS[shape] if not cell_file(options, shape, v).is_file()]
        if missing and options.counted:
            count_all(options, shape, missing)
        elif missing:
            measure_all(options, shape, missing, device)
        write_tables(options)
    print(page_file(options).read_text(encoding="utf-8"))
    return 0


def page_file(options: CostOptions) -> Path:
    """Return the file for the tables."""
    return options.out / ("counted.md" if options.counted else "costs.md")


def cell_file(options: CostOptions, shape: str, variant: Variant) -> Path:
    """Return the file for one row's figures."""
    name = "".join(letter if letter.isalnum() else "-" for letter in variant.label.lower())
    return options.out / f"{shape}-{name}{'-counted' if options.counted else ''}.json"


def count_all(options: CostOptions, shape: str, missing: list[Variant]) -> None:
    """Count the missing rows, writing each at once."""
    for variant in missing:
        began = time.monotonic()
        cell = count(shape, variant, options.rows, options.tokens, options.layers)
        write_cell(options, shape, variant, cell, time.monotonic() - began)


def measure_all(
    options: CostOptions, shape: str, missing: list[Variant], device: torch.device
) -> None:
    """Build one base and measure the missing rows on it, writing each at once."""
    began = time.monotonic()
    base = build_base(shape, device, options.layers)
    weights = sum(parameter.numel() for parameter in base.parameters())
    print(f"{shape}: {weights:,} weights in {time.monotonic() - began:.0f} s", flush=True)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    for variant in missing:
        began = time.monotonic()
        cell = measure(base, variant, options.rows, options.tokens, options.steps, options.profile)
        write_cell(options, shape, variant, {**cell, "device": name}, time.monotonic() - began)
    del base
    gc.collect()
    if options.svd:
        rank = max(v.spec.outer_rank or 0 for v in VARIANTS[shape] if v.spec)
        found = svd_seconds(shape, rank, device)
        write_text(options.out / f"{shape}-svd.json", json.dumps(found, indent=1) + "\n")
        print(f"{shape} exact outer factors of rank {rank}: {found}", flush=True)


def write_cell(
    options: CostOptions, shape: str, variant: Variant, cell: dict[str, Any], seconds: float
) -> None:
    """Write one row's figures with their settings, and print them."""
    cell |= {
        "shape": shape,
        "label": variant.label,
        "rows": options.rows,
        "tokens": options.tokens,
        "torch": torch.__version__,
    }
    write_text(cell_file(options, shape, variant), json.dumps(cell, indent=1) + "\n")
    if "failed" in cell:
        figures = cell["failed"]
    elif options.counted:
        figures = f"{cell['tflop']} TFLOP, {cell['peak_gib']} GiB"
    else:
        figures = f"{cell['seconds_per_step']:.3f} s, {cell['peak_gib']} GiB"
    print(f"{shape} {variant.label}: {figures} ({seconds:.0f} s)", flush=True)


def write_tables(options: CostOptions) -> None:
    """Write all rows that exist as one Markdown page and one JSON file."""
    pages, record = [], {}
    for shape in options.shapes:
        cells = []
        for variant in VARIANTS[shape]:
            file = cell_file(options, shape, variant)
            if file.is_file():
                cells.append((variant, json.loads(file.read_text(encoding="utf-8"))))
        if cells:
            pages.append((counted_table if options.counted else table)(shape, cells))
            record[shape] = [cell for _, cell in cells]
    page = page_file(options)
    write_text(page.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    write_text(page, "\n\n".join(pages) + "\n")


if __name__ == "__main__":
    sys.exit(run_entry(main))
