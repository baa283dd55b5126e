"""Table 1's cost columns: a training step on full-size LLaMA shapes with random weights.

    python evaluation/table1_costs.py --out runs/table1-costs

Writes a JSON file for each method and shape, so that a second call goes on where the first ended,
and `costs.md`. About four minutes on one H100 (80 GiB). NoRA's outer factors are random orthonormal
pairs, since the weights are random anyway: no step's cost depends on their values.
Exit status: 0 done, 2 bad input.
"""

import gc
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from nora_studio.atomic import write_text
from nora_studio.commonsense.costs import (
    VARIANTS,
    Variant,
    build_base,
    measure,
    svd_seconds,
    table,
)
from nora_studio.errors import StudioError, run_entry


@dataclass(frozen=True)
class CostOptions:
    """What is measured, and how."""

    out: Path = Path("runs/table1-costs")
    """Folder for the results."""
    shapes: tuple[str, ...] = ("llama-1-7b", "llama-3-8b")
    """Models, by the names that `nora-studio params --model` knows."""
    rows: int = 16
    """Questions in a batch; the paper's."""
    tokens: int = 256
    """Tokens of a question; the protocol's cutoff."""
    steps: int = 10
    """Measured steps, after three that warm up; the median counts."""
    layers: int | None = None
    """Fewer blocks than the shape has, for a trial. None: all."""
    profile: bool = True
    """Profile one more step of each."""
    svd: bool = False
    """Time one exact decomposition of each size of layer too, at NoRA's largest outer rank."""
    device: str = "cuda"
    """Where to measure."""


def main() -> int:
    options = tyro.cli(CostOptions, description=__doc__)
    unknown = [shape for shape in options.shapes if shape not in VARIANTS]
    if unknown:
        raise StudioError(f"--shapes: expected some of {', '.join(VARIANTS)}; got {unknown[0]!r}.")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise StudioError("--device: expected a GPU; torch finds none. Set --device cpu.")
    options.out.mkdir(parents=True, exist_ok=True)
    for shape in options.shapes:
        missing = [v for v in VARIANTS[shape] if not cell_file(options, shape, v).is_file()]
        if missing:
            measure_all(options, shape, missing, device)
        write_tables(options)
    print((options.out / "costs.md").read_text(encoding="utf-8"))
    return 0


def cell_file(options: CostOptions, shape: str, variant: Variant) -> Path:
    """Where one row's figures are kept."""
    name = "".join(letter if letter.isalnum() else "-" for letter in variant.label.lower())
    return options.out / f"{shape}-{name}.json"


def measure_all(
    options: CostOptions, shape: str, missing: list[Variant], device: torch.device
) -> None:
    """Build one base and measure all that is missing on it, each written at once."""
    began = time.monotonic()
    base = build_base(shape, device, options.layers)
    weights = sum(parameter.numel() for parameter in base.parameters())
    print(f"{shape}: {weights:,} weights in {time.monotonic() - began:.0f} s", flush=True)
    for variant in missing:
        began = time.monotonic()
        cell = measure(base, variant, options.rows, options.tokens, options.steps, options.profile)
        cell |= {
            "shape": shape,
            "label": variant.label,
            "rows": options.rows,
            "tokens": options.tokens,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
            "torch": torch.__version__,
        }
        write_text(cell_file(options, shape, variant), json.dumps(cell, indent=1) + "\n")
        told = cell.get("failed") or f"{cell['seconds_per_step']:.3f} s, {cell['peak_gib']} GiB"
        print(f"{shape} {variant.label}: {told} ({time.monotonic() - began:.0f} s)", flush=True)
    del base
    gc.collect()
    if options.svd:
        rank = max(v.spec.outer_rank or 0 for v in VARIANTS[shape] if v.spec)
        found = svd_seconds(shape, rank, device)
        write_text(options.out / f"{shape}-svd.json", json.dumps(found, indent=1) + "\n")
        print(f"{shape} exact outer factors of rank {rank}: {found}", flush=True)


def write_tables(options: CostOptions) -> None:
    """Write all that is measured so far as one page of markdown."""
    pages = []
    for shape in options.shapes:
        cells = []
        for variant in VARIANTS[shape]:
            file = cell_file(options, shape, variant)
            if file.is_file():
                cells.append((variant, json.loads(file.read_text(encoding="utf-8"))))
        if cells:
            pages.append(table(shape, cells))
    write_text(options.out / "costs.md", "\n\n".join(pages) + "\n")


if __name__ == "__main__":
    sys.exit(run_entry(main))
