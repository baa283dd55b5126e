"""Make Table 2 of arXiv 2408.10280: few-shot methods by shots, over seeds, on one dataset.

    python evaluation/table2.py --out runs/table2 --jobs 12
    python evaluation/table2.py --out runs/dtd --shots 1 4 16 \\
        --options dataset=dtd data-dir=data model=ViT-B-16:openai

First, each method's learning rates are tried at `--rate-shots` shots with separate seeds, on
validation images only. Then every method is trained at its best rate, at every number of shots,
with every seed. Last, each method's speed is measured, alone on the device. Each finished cell is
kept as a JSON file, so that the same command continues after a stop. Writes table2.json and
table2.md; `--stored table2.json` writes the table of an earlier record, without training.
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import json
import math
import sys
import tomllib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nora_studio.options.command_line import parse_command
from nora_studio.options.options_file import parse, to_toml
from nora_studio.runs.atomic import write_text
from nora_studio.runs.entry import run_entry
from nora_studio.runs.script_pool import ScriptPool
from nora_studio.runs.scripts import as_flags
from nora_studio.scoring.tables import (
    check_each_once,
    check_options,
    check_stored,
    read_record,
    write_page,
)
from nora_studio.tasks.fewshot.cells import CellRunner
from nora_studio.tasks.fewshot.datasets import SPLITS, find_dataset
from nora_studio.tasks.fewshot.methods import METHODS
from nora_studio.tasks.fewshot.options import FewshotOptions
from nora_studio.tasks.fewshot.recommended import recommended, with_recommended
from nora_studio.tasks.fewshot.table import RECORD, Cell, check_alike, page

METHODS_OF_TABLE_2 = tuple(name for name in METHODS if name != "clip-adapter")
OF_EACH_CELL = {"method", "shots", "seed", "name", "output_dir", "resume", "override", "twins"}


@dataclass(frozen=True)
class TableOptions:
    """Train and test few-shot methods by shots, over seeds."""

    out: Path = Path("runs/table2")
    """Folder for cells, runs and the table."""
    methods: tuple[str, ...] = METHODS_OF_TABLE_2
    """Rows of the table."""
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Columns of the table."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of shots, batches and adapters: one training of every cell for each."""
    options: tuple[str, ...] = ()
    """Options of training/clip_fewshot.py for every run: "dataset=dtd", "no-augment"."""
    try_rates: bool = True
    """Try each method's recommended rates on validation images; if off, the first is used."""
    rate_shots: int = 4
    """Number of shots at which rates are tried."""
    rate_seeds: tuple[int, ...] = (101, 102, 103)
    """Seeds with which rates are tried; they should not be among --seeds."""
    pace: bool = True
    """Measure each method's seconds per step, alone on the device."""
    jobs: int = 1
    """Trainings at the same time, each in its own process."""
    stored: Path | None = None
    """A table2.json whose table is written to --out; nothing is trained."""


def main() -> int:
    """Make the table and return the exit status."""
    options = parse_command(TableOptions, description=__doc__)
    if options.stored is not None:
        check_stored(options)
        return write_page(options.out / "table2.md", page(read_record(options.stored, RECORD)))
    scripts = ScriptPool()
    return scripts.run(lambda: make_table(options, scripts))


def make_table(options: TableOptions, scripts: ScriptPool) -> int:
    """Try the rates, train the cells, measure speeds, write the table; return the exit status."""
    flags, resolved = resolve(options)
    plain = tomllib.loads(to_toml(resolved))
    # JSON has no infinity.
    settings = {name: "inf" if value == math.inf else value
                for name, value in plain.items() if name not in OF_EACH_CELL}  # fmt: skip
    dataset = find_dataset(resolved.dataset, resolved.data_dir)
    for split in SPLITS:  # Images that are rendered on demand are rendered here, once for all.
        dataset.splits[split][0][0].digest()

    def runner(name: str, jobs: int = options.jobs) -> CellRunner:
        return CellRunner(options.out / name, flags, settings, jobs, scripts)

    rates: dict[str, float | None] = {
        name: recommended(name, resolved.model).rates[0] if METHODS[name].trains else None
        for name in options.methods
    }
    tried: dict[str, dict[float, float]] = {}
    if options.try_rates:
        tried = try_rates(options, resolved.model, runner)
        # `max` takes the first of equals, which is the recommended one.
        rates |= {name: max(found, key=lambda rate: found[rate]) for name, found in tried.items()}
    cells = [
        Cell(method, shots, seed)
        for shots in options.shots
        for seed in options.seeds
        for method in options.methods
    ]
    found = runner("cells").finished(cells, rates)
    check_alike(found)
    paces = runner("paces").paces(rates) if options.pace else {}
    record = {"settings": settings, "rates": rates, "tried": tried, "seconds_per_step": paces,
              "cells": found}  # fmt: skip
    write_text(options.out / "table2.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    return write_page(options.out / "table2.md", page(record))


def resolve(options: TableOptions) -> tuple[tuple[str, ...], FewshotOptions]:
    """Return the trainer's flags for every run, and its complete options for one shot.

    Raises:
        StudioError: the trainer would refuse an option, or the table sets it itself.
    """
    check_options(options.options, OF_EACH_CELL)
    for name in ("methods", "shots", "seeds", "rate_seeds"):
        check_each_once(f"--{name.replace('_', '-')}", getattr(options, name))
    known = {name: method.tuner for name, method in METHODS.items()}
    flags = as_flags(options.options)
    asked = [*flags, "--shots", "1", "--method", ",".join(options.methods)]
    resolved = with_recommended(parse(FewshotOptions, asked), known)
    for name in options.methods:
        METHODS[name].check(resolved, name)
    return tuple(flags), resolved


def try_rates(options: TableOptions, model: str, runner: Any) -> dict[str, dict[float, float]]:
    """Return mean validation accuracy over seeds, by rate, by method, if it has several rates."""
    found: dict[str, dict[float, list[float]]] = {}
    several: Mapping[str, tuple[float, ...]] = {
        name: recommended(name, model).rates for name in options.methods if METHODS[name].trains
    }

    most_rates = max(map(len, several.values()), default=1)

    def tried(number: int) -> list[dict[str, Any]]:
        chosen = {name: own[number] for name, own in several.items() if 1 < len(own) > number}
        cells = [Cell(name, options.rate_shots, seed) for seed in options.rate_seeds
                 for name in chosen]  # fmt: skip
        jobs = max(1, options.jobs // most_rates)
        return runner(f"rates-{number}", jobs).finished(cells, chosen)

    with ThreadPoolExecutor(min(most_rates, options.jobs)) as pool:
        for number, scores in enumerate(pool.map(tried, range(most_rates))):
            for one in scores:
                rate = several[one["method"]][number]
                found.setdefault(one["method"], {}).setdefault(rate, []).append(one["validation"])
    return {
        method: {rate: fmean(values) for rate, values in own.items()}
        for method, own in found.items()
    }


if __name__ == "__main__":
    sys.exit(run_entry(main))
