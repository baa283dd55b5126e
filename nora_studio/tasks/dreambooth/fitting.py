"""Find settings with which a training fits into a limit of memory, by measuring candidates.

Each candidate is measured by a preflight of the same script in a child process: running out of
memory ends only the child, and its memory does not count in the next measurement.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nora_studio.adapters.methods.quantised import support_bits
from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.groups.checks import filled
from nora_studio.options.options_file import read_toml, to_toml
from nora_studio.runs.child_processes import stop_with_parent
from nora_studio.runs.runs import CONFIG, Run
from nora_studio.tasks.dreambooth.preflight import check_one_process
from nora_studio.trainer.peak_memory import Peak

CHANGED = ("gradient_checkpointing", "accumulate", "base_bits")
"""The options that may be changed to save memory."""


@dataclass(frozen=True)
class Measurement:
    """A measured candidate."""

    name: str
    changes: dict[str, Any]
    needed_gib: float | None
    """None if memory ran out."""
    seconds_per_step: float | None

    def fits(self, limit_gib: float) -> bool:
        """Return whether the candidate stays within a limit."""
        return self.needed_gib is not None and self.needed_gib <= limit_gib


def candidates(
    options: DreamboothOptions, given: frozenset[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Return the candidates in order: each adds one saving to the one before, cheap ones first.

    Args:
        given: Options that the user set, which are not changed.

    Returns:
        (name, changed options) of each.
    """
    free = {field.name for field in fields(options)} - given
    found: list[tuple[str, dict[str, Any]]] = [("as asked", {})]

    def add(name: str, **changes: Any) -> None:
        found.append((name, found[-1][1] | changes))

    if "gradient_checkpointing" in free and not options.gradient_checkpointing:
        add("gradient checkpointing", gradient_checkpointing=True)
    batch = filled(options.batch_size)
    if "accumulate" in free:
        for passes in sorted({2, batch}):
            if 1 < passes <= batch and batch % passes == 0:
                add(f"{passes} micro-batches", accumulate=passes)
    for bits in (8, 4) if "base_bits" in free and options.base_bits == 16 else ():
        if support_bits(options.methods, bits):
            add(f"{bits}-bit base", base_bits=bits)
    return found


def fitted(
    options: DreamboothOptions,
    given: frozenset[str],
    script: Path,
    say: Callable[[str], object],
) -> DreamboothOptions:
    """Return the options with the first candidate's changes that fits into `fit` GiB.

    A resumed run keeps the settings found when it was started; nothing is measured again.

    Args:
        given: Options that the user set.
        script: The trainer's script.
        say: Called with a line for each measured candidate.

    Raises:
        StudioError: no candidate fits, or a measurement failed for another reason.
    """
    check_one_process("fit")
    limit = filled(options.fit)
    if options.resume:
        return replace(options, **_found_before(options, given))
    for method in options.methods:
        Run(options.output_dir / f"{options.run_name}-{method}").check_new()
    tries: list[Measurement] = []
    say(f"{'tried':24} {'GiB':>7} {'s/step':>8}  fits {limit:g} GiB")
    for tried in measure(options, candidates(options, given), script):
        tries.append(tried)
        say(_row(tried, limit))
        if tried.fits(limit):
            return replace(options, **tried.changes)
    raise StudioError(_measure_shortfall(options, tries, script))


def measure(
    options: DreamboothOptions, wanted: list[tuple[str, dict[str, Any]]], script: Path
) -> Iterator[Measurement]:
    """Measure candidates lazily, one after the other.

    Raises:
        StudioError: a measurement failed for another reason than memory.
    """
    for name, changes in wanted:
        with tempfile.TemporaryDirectory() as folder:
            yield _try(replace(options, **changes), name, changes, script, Path(folder))


def _try(
    options: DreamboothOptions, name: str, changes: dict[str, Any], script: Path, folder: Path
) -> Measurement:
    out, config = folder / "preflight.json", folder / "options.toml"
    child = replace(options, preflight=True, preflight_out=out)
    config.write_text(to_toml(child), encoding="utf-8")
    command = [sys.executable, str(script), "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=stop_with_parent())
    facts = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    if facts.get("out_of_memory") or ended.returncode == -9:  # The system kills it without memory.
        return Measurement(name, changes, None, None)
    if ended.returncode != 0 or not facts:
        lines = [line for line in ended.stderr.splitlines() if line.strip()] or ["no reason given"]
        raise StudioError(f"--fit: measuring {name!r} failed: {lines[-1].removeprefix('error: ')}")
    return Measurement(name, changes, Peak(**facts["peak"]).needed_gib, facts["seconds_per_step"])


def _row(tried: Measurement, limit: float) -> str:
    verdict = "yes" if tried.fits(limit) else "no"
    if tried.needed_gib is None or tried.seconds_per_step is None:
        return f"{tried.name:24} {'more':>7} {'':>8}  {verdict}"
    return f"{tried.name:24} {tried.needed_gib:7.2f} {tried.seconds_per_step:8.2f}  {verdict}"


def _measure_shortfall(options: DreamboothOptions, tries: list[Measurement], script: Path) -> str:
    """Return the error if nothing fits, with the least memory that a candidate needs."""
    needs = [tried.needed_gib for tried in tries if tried.needed_gib is not None]
    if not needs:  # All ran out of memory under the limit: measure the last one without it.
        last = (tries[-1].name, tries[-1].changes)
        needs = [t.needed_gib for t in measure(replace(options, fit=None), [last], script)]
    least = min((need for need in needs if need is not None), default=None)
    need = "more than there is" if least is None else f"{least:.2f} GiB"
    return (
        f"--fit: no settings fit into {options.fit:g} GiB; the least memory measured is {need}. "
        "Lower --resolution or --batch-size, train fewer twins at once, or allow more memory."
    )


def _found_before(options: DreamboothOptions, given: frozenset[str]) -> dict[str, Any]:
    """Read the settings found when the resumed run was started."""
    run = Run.open(options.output_dir / f"{options.run_name}-{options.methods[0]}")
    config = read_toml(run.folder / CONFIG)
    names = {field.name for field in fields(options)} & set(CHANGED) & config.keys()
    return {name: config[name] for name in names - given}
