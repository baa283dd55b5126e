"""Train a table's cells in processes of the few-shot trainer, several at once, and save each."""

import json
import math
import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import write_text
from nora_studio.runs.runs import CONFIG, Run
from nora_studio.runs.script_pool import ScriptPool
from nora_studio.runs.scripts import FEWSHOT, script_command
from nora_studio.runs.strict_json import JsonObject
from nora_studio.scoring.tables import check_settings
from nora_studio.tasks.fewshot.options import PARTS
from nora_studio.tasks.fewshot.scores import SCORES
from nora_studio.tasks.fewshot.table import Cell, read_cell

PACE_STEPS = 30
PACE_SHOTS = 4


@dataclass(frozen=True)
class CellRunner:
    """Trains the cells of a table, and reads those in its folder."""

    folder: Path
    flags: tuple[str, ...]
    """Flags of the trainer for every run."""
    settings: Mapping[str, Any]
    """The settings that these flags stand for, saved with every cell and equal in all."""
    jobs: int = 1
    """Number of processes at once."""
    scripts: ScriptPool = field(default_factory=ScriptPool)

    def read(self, cell: Cell, rate: float | None) -> JsonObject | None:
        """Read a finished cell.

        Raises:
            StudioError: it was trained with other settings.
        """
        file = self.folder / f"{cell.name}.json"
        found = read_cell(file)
        if found is not None:
            check_settings(file, found.get("settings", {}), self._settings(rate))
        return found

    def _settings(self, rate: float | None) -> JsonObject:
        return {**self.settings, "rate": rate}

    def finished(
        self, cells: Sequence[Cell], rates: Mapping[str, float | None]
    ) -> list[JsonObject]:
        """Train every cell that is missing, and return all of them in order.

        Cells with the same shots and seed are trained as twins in one process, or in several if one
        would take more than an even share of the work; the results do not depend on it. The longest
        start first.

        Raises:
            StudioError: a training failed, or a cell was trained with other settings.
        """
        work = self.missing(cells, rates)
        with (
            ThreadPoolExecutor(self.jobs) as pool,
            tqdm(total=len(work), desc=self.folder.name, unit="process") as bar,
        ):
            for _ in pool.map(lambda group: self._train(group, rates), work):
                bar.update()
        found = [self.read(cell, rates[cell.method]) for cell in cells]
        return [cell for cell in found if cell is not None]

    def missing(self, cells: Sequence[Cell], rates: Mapping[str, float | None]) -> list[list[Cell]]:
        """Return the missing cells of each process, the longest first.

        Finished cells are assigned to processes too, so that the cells of a process that was
        stopped are grouped as before, and can be resumed.
        """
        groups: dict[tuple[int, int], list[Cell]] = {}
        for cell in cells:
            groups.setdefault((cell.shots, cell.seed), []).append(cell)
        work = [
            [cell for cell in group if self.read(cell, rates[cell.method]) is None]
            for group in evenly(list(groups.values()), self.jobs)
        ]
        return [group for group in work if group]

    def _train(self, group: Sequence[Cell], rates: Mapping[str, float | None]) -> None:
        first = group[0]
        stem = f"{first.shots}shots-seed{first.seed}"
        extra_flags = ("--shots", str(first.shots), "--seed", str(first.seed))
        runs = self._run(stem, [cell.method for cell in group], rates, extra_flags)
        for cell in group:
            scores = json.loads((runs[cell.method].folder / SCORES).read_text(encoding="utf-8"))
            scores["settings"] = self._settings(rates[cell.method])
            text = json.dumps(scores, indent=1) + "\n"
            write_text(self.folder / f"{cell.name}.json", text, durable=True)

    def paces(self, rates: Mapping[str, float | None]) -> dict[str, float]:
        """Return the seconds per step of each trained method, measured alone on the device."""
        methods = [method for method, rate in rates.items() if rate is not None]
        file = self.folder / "paces.json"
        known: dict[str, float] = {}
        if file.is_file():
            known = json.loads(file.read_text(encoding="utf-8"))
        if set(methods) - known.keys():
            extra_flags = ("--shots", str(PACE_SHOTS), "--steps", str(PACE_STEPS), "--no-twins",
                    "--test-limit", "64", "--log-every", "5")  # fmt: skip
            runs = self._run("paces", methods, rates, extra_flags)
            for method, run in runs.items():
                scores = json.loads((run.folder / SCORES).read_text(encoding="utf-8"))
                known[method] = scores["seconds_per_step"]
            write_text(file, json.dumps(known, indent=1) + "\n")
        return {method: known[method] for method in methods}

    def _run(
        self,
        stem: str,
        methods: Sequence[str],
        rates: Mapping[str, float | None],
        extra_flags: Sequence[str],
    ) -> dict[str, Run]:
        """Run one process of the trainer to its end, resuming runs that were stopped."""
        folder = self.folder / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        runs = {method: Run(folder / f"{stem}-{method}") for method in methods}
        overrides = [
            f"{method}.{part}.learning_rate={rates[method]!r}"
            for method in methods
            if rates[method] is not None
            for part in PARTS
        ]
        flags = [*self.flags, *extra_flags, "--method", ",".join(methods), "--name", stem,
                 "--output-dir", str(folder)]  # fmt: skip
        flags += ["--override", *overrides] if overrides else []
        started = [run for run in runs.values() if run.exists]
        for run in started:
            if not _is_resumable(run, methods, overrides):
                shutil.rmtree(run.folder)
        flags += ["--resume"] if any(run.exists for run in started) else []
        log = folder / f"{stem}-{methods[0]}.log"
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with log.open("a", encoding="utf-8") as output:
            command = script_command(FEWSHOT, flags)
            status = self.scripts.call(command, output, environment)
        if status:
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise StudioError(
                f"training failed with exit status {status}, see {log}: {' '.join(last)}"
            )
        return runs


def evenly(groups: Sequence[Sequence[Cell]], jobs: int) -> list[Sequence[Cell]]:
    """Split groups of cells so that none takes much longer than an even share of the work.

    Args:
        groups: Cells that may share a process.
        jobs: Number of processes at once.

    Returns:
        The cells of each process, the longest first; a cell's time is proportional to its shots.
    """
    share = sum(cell.shots for group in groups for cell in group) / jobs
    work = []
    for group in groups:
        pieces = min(len(group), math.ceil(group[0].shots * len(group) / share))
        work += [group[n::pieces] for n in range(pieces)]
    return sorted(work, key=lambda group: -group[0].shots * len(group))


def _is_resumable(run: Run, methods: Sequence[str], overrides: Sequence[str]) -> bool:
    """Return whether a run was started with the same twins at the same rates."""
    began = tomllib.loads((run.folder / CONFIG).read_text(encoding="utf-8"))
    return (began["method"], began["override"]) == (",".join(methods), list(overrides))
