"""`nora-studio audit-resume`: compare a stopped and resumed training with an uninterrupted one."""

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

    All other flags are the trainer's (`nora-studio train --help`), including `--config FILE`, so
    that the settings of any run can be audited. The run folders go to --folder, and every step is
    logged unless --log-every is given. Exit status: 0 if the runs are equal to the bit, or on a GPU
    within the tolerance; 1 if they are not.
    """

    at: int | None = None
    """Step after which the second run is stopped. None: half of the steps."""
    kill: bool = False
    """Kill the second run with SIGKILL, as a crash would, instead of stopping it with Ctrl-C."""
    folder: Path | None = None
    """Folder for both runs, new or empty. None: a temporary one, removed afterwards."""
    tolerance: float = 1e-2
    """Largest difference allowed on a GPU, as a share of the largest number in the tensor."""


def run(arguments: Sequence[str], start=None) -> int:
    """Train, stop, resume, compare and print the table; return the exit status.

    Args:
        start: Function that starts the trainer. None: in a new Python process.
    """
    options, trainer_arguments = run_parser(
        lambda: tyro.cli(
            AuditResumeOptions,
            prog="nora-studio audit-resume",
            args=list(arguments),
            return_unknown_args=True,
        )
    )
    options = checked(options)
    # Imported here: `--help` should respond at once.
    import torch

    from nora_studio.options.defaults import with_recommended
    from nora_studio.options.options_file import parse_options
    from nora_studio.runs.launching import start_in_new_process
    from nora_studio.trainer.audit import compare_runs

    trainer = with_recommended(parse_options(trainer_arguments))
    steps = trainer.steps or 0
    at = steps // 2 if options.at is None else options.at
    if not 1 <= at < steps:
        raise StudioError(f"--at: expected a step from 1 to {steps - 1}, of {steps}; got {at}.")
    if "--resume" in trainer_arguments:
        raise StudioError("--resume: audit-resume starts new runs. Leave it out.")
    added = []
    if not any(word.split("=")[0] == "--log-every" for word in trainer_arguments):
        added += ["--log-every", "1"]
    if options.kill:  # There must be a checkpoint to resume from.
        added += ["--checkpoint-every", str(min(trainer.checkpoint_every, max(1, at // 2)))]
    with _folder(options.folder) as folder:
        audit = _Audit(folder, [*trainer_arguments, *added], start or start_in_new_process)
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
    return _print_agreements(agreements, options.tolerance if device == "gpu" else 0.0)


@contextlib.contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="nora-studio-audit-") as scratch:
            yield Path(scratch)
        return
    if folder.exists() and any(folder.iterdir()):
        raise StudioError(f"--folder: expected a new or empty folder; {folder} is not empty.")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


class _Audit:
    """Two trainings with the same command, in two folders."""

    def __init__(self, folder: Path, arguments: list[str], start) -> None:
        self.folder, self.arguments, self.start = folder, arguments, start

    def _start(self, name: str, *more: str):
        from nora_studio.runs.scripts import TRAIN

        words = [*self.arguments, "--output-dir", str(self.folder / name), *more]
        return self.start(TRAIN, words, self._output_file(name), {})

    def _output_file(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def train(self, name: str, *more: str) -> None:
        """Train to the end."""
        print(f"Training {name} {' '.join(more)}".rstrip(), flush=True)
        status = self._start(name, *more).wait()
        if status != 0:
            self._fail(name, f"ended with exit status {status}")

    def interrupt(self, name: str, trainer, at: int, kill: bool) -> int:
        """Train up to a step, stop there, and return the step that was saved."""
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
                f"the training ended (exit status {status}) before it could be stopped at step "
                f"{at}. Choose an earlier --at, or more --steps."
            )
        if status != (-number if kill else 128 + number):
            self._fail(name, f"ended with exit status {status} on {number.name}")
        return common_checkpoint(runs)

    def _fail(self, name: str, how: str) -> None:
        lines = self._output_file(name).read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        reason = (errors or lines or ["it printed nothing"])[-1].removeprefix("error: ")
        raise StudioError(f"the training {name!r} {how}: {reason}")


def _print_agreements(agreements: dict, tolerance: float) -> int:
    """Print the table and the conclusion; return the exit status."""
    rows = [("run", "what", "compared", "differ", "absolute", "relative", "first difference")]
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
        print("\nEqual to the bit: the resumed run is the same as the uninterrupted one.")
    elif good:
        print(f"\nEqual within the tolerance, {tolerance:g} of each tensor's largest number.")
    else:
        print("\nNOT equal: the resumed run differs from the uninterrupted one.")
    return 0 if good else 1
