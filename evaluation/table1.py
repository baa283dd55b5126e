"""Make Table 1 on the embedded model: train each method on commonsense questions, count answers.

    python evaluation/table1.py --out runs/table1 --seeds 0 1 2 --at-once 5

Trains with training/llama_commonsense.py and asks with evaluation/commonsense.py. Writes a JSON
file for each training, and all of them in `table1.json` and `table1.md`; the same command continues
after a stop. With `--at-once`, times per step are those of that many trainings at once. `--stored
table1.json` writes an earlier record's table, without training. evaluation/table1_costs.py measures
the cost columns. Exit status: 0 done, 2 bad input, a failed script's, 128 + n stopped by signal n.
"""

import dataclasses
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import write_text
from nora_studio.runs.entry import run_entry
from nora_studio.runs.runs import Run
from nora_studio.runs.script_pool import ScriptPool
from nora_studio.runs.scripts import COMMONSENSE, LLAMA, as_flags, script_command
from nora_studio.scoring.tables import (
    check_each_once,
    check_options,
    check_settings,
    check_stored,
    read_record,
    write_page,
)
from nora_studio.tasks.commonsense.table import ENTRIES, RECORD, Entry, cell_of, page, rate_of

BASE = "base"
OF_EACH_ROW = {"model", "data", "method", "name", "output_dir", "seed", "steps", "resume"}
"""Options of the trainer that the table sets itself for each training."""


@dataclass(frozen=True)
class TableOptions:
    """Train and test the methods of Table 1 on commonsense questions."""

    out: Path = Path("runs/table1")
    """Folder for runs, answers and the table."""
    model: str = "embedded"
    """Base model, as the trainer's --model."""
    data: str = "embedded"
    """Questions to train on, as the trainer's --data."""
    test_data: str | None = None
    """Questions to test with. None: as --data."""
    labels: tuple[str, ...] = tuple(entry.label for entry in ENTRIES)
    """Rows of the table."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of batches and adapters: one training of every row for each."""
    steps: int | None = None
    """Training steps. None: the trainer's default."""
    limit: int | None = None
    """Number of questions to ask of each set. None: all."""
    batch_size: int = 200
    """Questions per batch when testing."""
    at_once: int = 1
    """Rows made at the same time, on one device."""
    options: tuple[str, ...] = ()
    """Options of training/llama_commonsense.py for all rows: "precision=fp32", "epochs=3"."""
    stored: Path | None = None
    """A table1.json whose table is written to --out; nothing is trained or tested."""


@dataclass(frozen=True)
class Row:
    """One training, or the base alone."""

    entry: Entry | None
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of the row's run and files."""
        return BASE if self.entry is None else f"{self.entry.name}-seed{self.seed}"

    @property
    def label(self) -> str:
        """The label in the table."""
        return BASE if self.entry is None else self.entry.label


def main() -> int:
    """Make the table and return the exit status."""
    options = parse_command(TableOptions, description=__doc__)
    if options.stored is not None:
        check_stored(options)
        return write_page(options.out / "table1.md", page(read_record(options.stored, RECORD)))
    known = {entry.label: entry for entry in ENTRIES}
    for label in options.labels:
        if label not in known:
            raise StudioError(f"--labels: expected some of {', '.join(known)}; got {label!r}.")
    check_each_once("--seeds", options.seeds)
    check_options(options.options, OF_EACH_ROW)
    keep_settings(options)
    trained = [Row(known[label], seed) for seed in options.seeds for label in options.labels]
    scripts = ScriptPool()
    return scripts.run(lambda: make_table(options, [Row(None), *trained], scripts))


def settings_of(options: TableOptions) -> dict[str, Any]:
    """Return the settings, besides method and seed, that decide the figures of a row."""
    asked = dataclasses.asdict(options)
    names = ("model", "data", "test_data", "steps", "limit")
    return {**{name: asked[name] for name in names}, "options": list(options.options)}


def keep_settings(options: TableOptions) -> None:
    """Write the rows' settings to settings.json; refuse rows that were made with others."""
    file, settings = options.out / "settings.json", settings_of(options)
    if file.is_file():
        check_settings(file, json.loads(file.read_text(encoding="utf-8")), settings)
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(settings, indent=1) + "\n")


def make_table(options: TableOptions, rows: list[Row], scripts: ScriptPool) -> int:
    """Make the missing rows, then the table; return the first nonzero exit status, or 0."""
    with ThreadPoolExecutor(options.at_once) as pool:
        statuses = list(pool.map(lambda row: make_row(options, row, scripts), rows))
    write_table(options, rows)
    return next((status for status in statuses if status), 0)


def make_row(options: TableOptions, row: Row, scripts: ScriptPool) -> int:
    """Train and test one row unless it is done; return the first nonzero exit status, or 0."""
    file = cell_file(options, row)
    if file.is_file():
        return 0
    run = None
    if row.entry is not None:
        run = Run(options.out / "runs" / f"{row.name}-{row.entry.method}")
        if run.read_status().get("state") != "finished":
            flags = training_flags(options, row.entry, row)
            flags += ["--resume"] if run.exists else []
            status = call(options, scripts, row.name, LLAMA, flags)
            if status:
                return status
    answers = options.out / "answers" / row.name
    asked = ["--data", options.test_data or options.data, "--out", str(answers)]
    asked += ["--batch-size", str(options.batch_size)]
    asked += ["--model", options.model] if run is None else ["--adapter", str(run.folder)]
    asked += [] if options.limit is None else ["--limit", str(options.limit)]
    status = call(options, scripts, row.name, COMMONSENSE, asked)
    if status == 0:
        cell = {"label": row.label, "seed": row.seed, **cell_of(run, answers)}
        write_text(file, json.dumps(cell, indent=1) + "\n")
        print(f"{row.name}: {100 * cell['average']:.1f}% on average", flush=True)
    return status


def training_flags(options: TableOptions, entry: Entry, row: Row) -> list[str]:
    """Return the trainer's command line arguments for one row."""
    flags = ["--model", options.model, "--data", options.data, "--method", entry.method]
    flags += ["--name", row.name, "--output-dir", str(options.out / "runs"), *entry.flags]
    flags += ["--seed", str(row.seed), *as_flags(options.options)]
    return flags if options.steps is None else [*flags, "--steps", str(options.steps)]


def call(
    options: TableOptions, scripts: ScriptPool, name: str, script: str, flags: list[str]
) -> int:
    """Run a script with its output in a log file; return its exit status."""
    log = options.out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        status = scripts.call(script_command(script, flags), stream, dict(os.environ))
    if status:
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        print(f"{name}: {script} ended with status {status}: {' '.join(tail)}", file=sys.stderr)
    return status


def cell_file(options: TableOptions, row: Row) -> Path:
    """Return the file for one row's figures."""
    return options.out / f"{row.name}.json"


def write_table(options: TableOptions, rows: list[Row]) -> None:
    """Write the table of all rows that exist."""
    files = [cell_file(options, row) for row in rows]
    cells = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    rates = {
        row.label: rate_of(training_flags(options, row.entry, row)) for row in rows if row.entry
    }
    record = {"settings": settings_of(options), "rates": rates, "tried": {}, "cells": cells}
    write_text(options.out / "table1.json", json.dumps(record, indent=1) + "\n")
    write_page(options.out / "table1.md", page(record))


if __name__ == "__main__":
    sys.exit(run_entry(main))
