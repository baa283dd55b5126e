"""`nora-studio audit-resume`: is a training that was stopped and resumed one that never stopped?"""

import contextlib
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.errors import StudioError
from nora_studio.options.command_line import checked, run_parser


@dataclass(frozen=True)
class AuditResumeOptions:
    """Train twice with the same options, once in one go and once stopped and resumed; compare.

    All other flags are the trainer's own (`nora-studio train --help`), `--config FILE` of a run
    among them, so that any settings can be audited; its run folders go to --folder, and a line is
    logged every step unless --log-every is given. Exit status: 0 if the runs are equal to the bit,
    or on a GPU within the tolerance; 1 if they are not.
    """

    at: int | None = None
    """Step after which the second run is stopped. None: half of them."""
    kill: bool = False
    """Kill it (SIGKILL), as a crash does, instead of asking it to save and stop (Ctrl-C)."""
    folder: Path | None = None
    """Folder for both runs, new or empty. None: a temporary one, removed afterwards."""
    tolerance: float = 1e-2
    """On a GPU, whose sums come out in any order: how far numbers may be apart, as a share of the
    largest of their tensor."""


def run(arguments: Sequence[str], start=None) -> int:
    """Train, stop, resume, compare and print the table.

    Args:
        start: How the trainer is started. None: in a new Python.
    """
    words = list(arguments)
    options, rest = run_parser(
        lambda: tyro.cli(
            AuditResumeOptions,
            prog="nora-studio audit-resume",
            args=words,
            return_unknown_args=True,
        )
    )
    options = checked(options)
    # Imported here: `--help` should answer at once.
    import torch

    from nora_studio.options.defaults import with_recommended
    from nora_studio.options.options_file import parse_options
    from nora_studio.runs.launching import start_fresh
    from nora_studio.trainer.audit import compare_runs

    trainer = with_recommended(parse_options(rest))
    steps = trainer.steps or 0
    at = steps // 2 if options.at is None else options.at
    if not 1 <= at < steps:
        raise StudioError(f"--at: expected a step from 1 to {steps - 1}, of {steps}; got {at}.")
    if "--resume" in rest:
        raise StudioError("--resume: audit-resume begins runs of its own. Leave it out.")
    own = [] if any(word.split("=")[0] == "--log-every" for word in rest) else ["--log-every", "1"]
    if options.kill:  # There must be something to go on from.
        own += ["--checkpoint-every", str(min(trainer.checkpoint_every, max(1, at // 2)))]
    with _folder(options.folder) as folder:
        audit = _Audit(folder, [*rest, *own], start or start_fresh)
        audit.train("whole")
        stopped = audit.interrupt("halves", trainer, at, options.kill)
        audit.train("halves", "--resume")
        agreements = {
            name: compare_runs(folder / "whole" / name, folder / "halves" / name)
            for name in (f"{trainer.run_name}-{method}" for method in trainer.methods)
        }
    device = "gpu" if torch.cuda.is_available() else "cpu"
    how = "killed" if options.kill else "stopped by Ctrl-C"
    print(f"{steps} steps on the {device}; {how} with step {stopped} saved, then --resume.\n")
    return _tell(agreements, options.tolerance if device == "gpu" else 0.0)


@contextlib.contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="nora-studio-audit-") as scratch:
            yield Path(scratch)
        return
    if wanted.exists() and any(wanted.iterdir()):
        raise StudioError(f"--folder: {wanted} is not empty. Name a new one.")
    wanted.mkdir(parents=True, exist_ok=True)
    yield wanted


class _Audit:
    """Two trainings by the same command, in two folders."""

    def __init__(self, folder: Path, arguments: list[str], start) -> None:
        self.folder, self.arguments, self.start = folder, arguments, start

    def _start(self, name: str, *more: str):
        from nora_studio.runs.scripts import TRAIN

        words = [*self.arguments, "--output-dir", str(self.folder / name), *more]
        return self.start(TRAIN, words, self._told(name), {})

    def _told(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def train(self, name: str, *more: str) -> None:
        """Train to the end."""
        print(f"Training {name} {' '.join(more)}".rstrip(), flush=True)
        status = self._start(name, *more).wait()
        if status != 0:
            self._fail(name, f"ended with status {status}")

    def interrupt(self, name: str, trainer, at: int, kill: bool) -> int:
        """Train until a step, and no further; give back the step that is saved."""
        from nora_studio.runs.interruption import has_reached, signal_when
        from nora_studio.runs.resuming import common_checkpoint
        from nora_studio.runs.runs import Run
        from nora_studio.runs.stop import SIGKILL

        print(f"Training {name} until step {at}", flush=True)
        runs = [Run(self.folder / name / f"{trainer.run_name}-{m}") for m in trainer.methods]
        number = SIGKILL if kill else signal.SIGINT
        started = self._start(name)
        sent = signal_when(started, number, lambda: has_reached(runs, at))
        status = started.wait()
        if not sent or status == 0:
            raise StudioError(
                f"the training ended (status {status}) before it could be stopped at step {at}. "
                "Choose an earlier --at, or more --steps."
            )
        if status != (-number if kill else 128 + number):
            self._fail(name, f"ended with status {status} on {number.name}")
        return common_checkpoint(runs)

    def _fail(self, name: str, how: str) -> None:
        lines = self._told(name).read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        word = (errors or lines or ["it said nothing"])[-1].removeprefix("error: ")
        raise StudioError(f"audit-resume: the training of {name} {how}: {word}")


def _tell(agreements: dict, tolerance: float) -> int:
    """Print the table and the verdict; give back the exit status."""
    rows = [("run", "what", "compared", "apart", "absolute", "relative", "first apart")]
    good = exact = True
    for name, found in agreements.items():
        for one in found:
            good = good and one.within(tolerance)
            exact = exact and one.compared > 0 and one.differing == 0
            rows.append(
                (
                    name,
                    one.what,
                    str(one.compared),
                    str(one.differing),
                    f"{one.absolute:.2g}",
                    f"{one.relative:.2g}",
                    one.where,
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        )
    if exact:
        print("\nEqual to the bit: stopped and resumed is as never stopped.")
    elif good:
        print(f"\nEqual within the tolerance, {tolerance:g} of each tensor's largest number.")
    else:
        print("\nNOT equal: going on with such a run does not end where one go would have.")
    return 0 if good else 1
