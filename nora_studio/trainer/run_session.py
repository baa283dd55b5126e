"""One call of the trainer: locks its runs, handles signals, and records how it ended."""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping

from nora_studio.adapters.methods.table import planned_methods
from nora_studio.errors import StudioError
from nora_studio.runs import processes
from nora_studio.runs.disk_errors import GO_ON, REFUSALS, DiskError, disk_error
from nora_studio.runs.entry import run_entry
from nora_studio.runs.run_lock import RunLock
from nora_studio.runs.runs import CONFIG, Run
from nora_studio.runs.stop import Interrupted, Interrupts, ending_at_once


class RunSession:
    """One call of the trainer, with the locks of its runs and what to close at the end."""

    def __init__(self) -> None:
        self._held: list[tuple[Run, RunLock]] = []
        self._started: list[Run] = []
        self.at_the_end = contextlib.ExitStack()
        """Callbacks for the end, called however it ends while the runs are still locked."""

    def run(self, main: Callable[["RunSession"], int]) -> int:
        """Run the trainer; however it ends, the status of its runs says so.

        Returns:
            The exit status: 2 after a `StudioError`, 128 + n after signal n.
        """

        def guarded(interrupts: Interrupts) -> int:
            try:
                with interrupts.raised_as_they_are(), self.at_the_end:
                    return main(self)
            except Interrupted as stop:
                self._set_state("stopped")
                if processes.is_main():
                    print(self._stop_message(stop), file=sys.stderr)
                return 128 + stop.signal
            except Exception as error:
                self._set_state("failed", str(error) or type(error).__name__)
                for run in self._started:
                    if not isinstance(error, StudioError) or isinstance(error, DiskError):
                        run.check_there()  # A missing folder is the cause of other errors.
                if not isinstance(error, OSError) or error.errno not in REFUSALS or not self._held:
                    raise
                # A write outside `writing`, such as of a line to a file that holds our output.
                folder = self._held[0][0].folder
                raise disk_error(error, "one of its files", folder, GO_ON) from error
            except BaseException as error:
                if not isinstance(error, SystemExit):
                    self._set_state("failed", str(error) or type(error).__name__)
                raise
            finally:
                self._release()

        with ending_at_once() as interrupts:
            return run_entry(lambda: guarded(interrupts))

    def claim(
        self,
        runs: list[Run],
        config: str,
        record: Mapping[str, str],
        resume: bool,
        defaults: str = "",
        data: str = "photos",
    ) -> None:
        """Lock new or resumed runs, and check that they match the options and the data.

        Called before a model is loaded: the folders can then be written, and no other process
        trains there. Twins that a killed process did not get to create are created later.

        Args:
            config: The options, as TOML.
            record: Digests of the data, by name.
            resume: Resume the runs that exist.
            defaults: Values for options that the runs of earlier versions lack, as TOML.
            data: What the digests are of, in words.

        Raises:
            StudioError: a run is locked by another process, exists already, cannot be resumed, or
                was started with other options or data.
        """
        if resume and not any(run.exists for run in runs):
            raise StudioError(
                f"--resume: {runs[0].folder} is not a run (it has no {CONFIG}). Leave --resume out "
                f"to start it; or if it was moved, give its place: `--config ITS-FOLDER/{CONFIG}`."
            )
        for run in runs:
            lock = RunLock(run.folder)
            if run.exists and not resume:
                if lock.holder() is not None:
                    raise lock.refusal()
                run.check_new()
            elif run.exists:
                run.check_config(config, defaults, planned_methods())
                run.check_photos(record, data)
            lock.acquire()
            self._held.append((run, lock))
            run.tidy()
            if resume:
                run.check_resumable()

    def begin(self, config: str, record: Mapping[str, str]) -> None:
        """Create the runs that do not exist yet, and set the status of all to "running".

        Args:
            config: The options, as TOML. They replace those of existing runs, for more steps.
            record: Digests of the data, as for `claim`.
        """
        for run, _ in self._held:
            if run.exists:
                run.replace_config(config)
            else:
                Run.create(run.folder, config, record, run.method)
            status = run.read_status()
            run.set_status("running", status.get("step", 0), status.get("steps", 0))
            self._started.append(run)

    def _set_state(self, state: str, error: str | None = None) -> None:
        """Set the state of every run whose status still says that this process trains it."""
        for run, _ in self._held:
            status = run.read_status()
            if status.get("state") == "running" and status.get("pid") == os.getpid():
                extra = {} if error is None else {"error": error}
                with contextlib.suppress(DiskError):  # That may be the very error.
                    run.set_status(state, status.get("step", 0), status.get("steps", 0), **extra)

    def _stop_message(self, stop: Interrupted) -> str:
        name = stop.signal.name
        if not all(run.exists for run, _ in self._held) or not self._held:
            return f"Stopped by {name}; no run was started. Start again with the same command."
        step = min(max(run.checkpoints(), default=0) for run, _ in self._held)
        return (
            f"Stopped at once by {name}; step {step} is saved. Continue with the same command and "
            "--resume."
        )

    def _release(self) -> None:
        while self._held:
            run, lock = self._held.pop()
            lock.release(forget=not run.exists)
