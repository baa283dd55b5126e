"""Table 1 on the embedded model: train each method on commonsense questions, and count answers.

    python evaluation/table1.py --out runs/table1

Trains by training/llama_commonsense.py, asks by evaluation/commonsense.py, and writes a JSON file
for each method, and all of them in `table1.json` and `table1.md`; a second call goes on where the
first ended. With `--at-once`, times of a step are those of so many at once.
Its cost columns on full-size models: evaluation/table1_costs.py.
Exit status: 0 done, 2 bad input, that of a script that failed, 128 + n stopped by signal n.
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.atomic import write_text
from nora_studio.commonsense.table import ENTRIES, Entry, cell_of, markdown
from nora_studio.crew import Crew
from nora_studio.errors import StudioError, run_entry
from nora_studio.runs import Run
from nora_studio.scripts import COMMONSENSE, LLAMA, script_command

BASE = "base"


@dataclass(frozen=True)
class TableOptions:
    """Which rows are made, and how."""

    out: Path = Path("runs/table1")
    """Folder for runs, answers and the table."""
    model: str = "embedded"
    """As the trainer's."""
    data: str = "embedded"
    """Questions to train on, as the trainer's."""
    test_data: str | None = None
    """Questions to ask. None: as `data`."""
    labels: tuple[str, ...] = tuple(entry.label for entry in ENTRIES)
    """Rows of the table."""
    steps: int | None = None
    """Training steps. None: the trainer's."""
    limit: int | None = None
    """At most so many questions of each set are asked. None: all."""
    batch_size: int = 200
    """Questions asked at a time."""
    at_once: int = 1
    """Rows made at the same time, on one device."""
    flags: tuple[str, ...] = ()
    """More of the trainer's flags for all rows, such as "--precision=fp32"."""


def main() -> int:
    options = tyro.cli(TableOptions, description=__doc__)
    known = {entry.label: entry for entry in ENTRIES}
    for label in options.labels:
        if label not in known:
            raise StudioError(f"--labels: expected some of {', '.join(known)}; got {label!r}.")
    rows: list[Entry | None] = [None, *(known[label] for label in options.labels)]
    crew = Crew()
    return crew.lead(lambda: make_table(options, rows, crew))


def make_table(options: TableOptions, rows: list[Entry | None], crew: Crew) -> int:
    """Make every row that is missing, then the table; the first bad exit status, or 0."""
    with ThreadPoolExecutor(options.at_once) as pool:
        statuses = list(pool.map(lambda entry: make(options, entry, crew), rows))
    write_table(options)
    print((options.out / "table1.md").read_text(encoding="utf-8"))
    return next((status for status in statuses if status), 0)


def make(options: TableOptions, entry: Entry | None, crew: Crew) -> int:
    """Train and ask one row, as far as it is not there yet; the first bad exit status, or 0."""
    name = BASE if entry is None else entry.name
    file = cell_file(options, name)
    if file.is_file():
        return 0
    run = None
    if entry is not None:
        run = Run(options.out / "runs" / f"{name}-{entry.method}")
        if run.read_status().get("state") != "finished":
            status = call(options, crew, name, LLAMA, training_flags(options, entry, run.exists))
            if status:
                return status
    answers = options.out / "answers" / name
    asked = ["--data", options.test_data or options.data, "--out", str(answers)]
    asked += ["--batch-size", str(options.batch_size)]
    asked += ["--model", options.model] if run is None else ["--adapter", str(run.folder)]
    asked += [] if options.limit is None else ["--limit", str(options.limit)]
    status = call(options, crew, name, COMMONSENSE, asked)
    if status == 0:
        label = BASE if entry is None else entry.label
        cell = {"label": label, **cell_of(run, answers)}
        write_text(file, json.dumps(cell, indent=1) + "\n")
        print(f"{label}: {100 * cell['average']:.1f}% on average", flush=True)
    return status


def training_flags(options: TableOptions, entry: Entry, resume: bool) -> list[str]:
    """The trainer's command line for one row."""
    flags = ["--model", options.model, "--data", options.data, "--method", entry.method]
    flags += ["--name", entry.name, "--output-dir", str(options.out / "runs"), *entry.flags]
    flags += [] if options.steps is None else ["--steps", str(options.steps)]
    for words in options.flags:
        flags += words.split("=", 1)
    return [*flags, "--resume"] if resume else flags


def call(options: TableOptions, crew: Crew, name: str, script: str, flags: list[str]) -> int:
    """Run a script, its words in a log beside the results."""
    log = options.out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream:
        status = crew.call(script_command(script, flags), stream, dict(os.environ))
    if status:
        tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        print(f"{name}: {script} ended with {status}: {' '.join(tail)}", file=sys.stderr)
    return status


def cell_file(options: TableOptions, name: str) -> Path:
    """Where one row's figures are kept."""
    return options.out / f"{name}.json"


def write_table(options: TableOptions) -> None:
    """Write all rows that are there as one table."""
    names = [BASE, *(entry.name for entry in ENTRIES if entry.label in options.labels)]
    cells = {}
    for name in names:
        file = cell_file(options, name)
        if file.is_file():
            cell = json.loads(file.read_text(encoding="utf-8"))
            cells[cell["label"]] = cell
    write_text(options.out / "table1.json", json.dumps(list(cells.values()), indent=1) + "\n")
    chance = next((cell["chance"] for cell in cells.values()), None)
    write_text(options.out / "table1.md", markdown(cells, chance) + "\n")


if __name__ == "__main__":
    sys.exit(run_entry(main))
