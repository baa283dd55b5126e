"""One call of the trainer: it holds its runs alone, obeys signals, and leaves word how it ended."""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping

from nora_studio.adapters.methods.table import planned_methods
from nora_studio.errors import StudioError, run_entry
from nora_studio.runs import processes
from nora_studio.runs.disk_errors import GO_ON, REFUSALS, DiskError, disk_error
from nora_studio.runs.run_lock import RunLock
from nora_studio.runs.runs import CONFIG, Run
from nora_studio.runs.stop import Interrupted, ending_at_once


class RunSession:
    """One call of the trainer, from its first file to its last word."""

    def __init__(self) -> None:
        self._held: list[tuple[Run, RunLock]] = []
        self._begun: list[Run] = []
        self.at_the_end = contextlib.ExitStack()
        """What is closed however it ends, while the runs are still held."""

    def run(self, main: Callable[["RunSession"], int]) -> int:
        """Run the trainer; whatever ends it, the runs that it held say so.

        Returns:
            Its exit status: 2 after a `StudioError`, 128 + n after signal n.
        """

        def guarded() -> int:
            try:
                with self.at_the_end:
                    return main(self)
            except Interrupted as stop:
                self._tell("stopped")
                if processes.is_main():
                    print(self._last_word(stop), file=sys.stderr)
                return 128 + stop.signal
            except Exception as error:
                self._tell("failed", str(error) or type(error).__name__)
                for run in self._begun:
                    if not isinstance(error, StudioError) or isinstance(error, DiskError):
                        run.check_there()  # Whatever else was said, that is why.
                if not isinstance(error, OSError) or error.errno not in REFUSALS or not self._held:
                    raise
                # Of a write that nobody watched, such as of a line to a log that holds our output.
                folder = self._held[0][0].folder
                raise disk_error(error, "one of its files", folder, GO_ON) from error
            except BaseException as error:
                if not isinstance(error, SystemExit):
                    self._tell("failed", str(error) or type(error).__name__)
                raise
            finally:
                self._release()

        with ending_at_once():
            return run_entry(guarded)

    def claim(
        self,
        runs: list[Run],
        config: str,
        record: Mapping[str, str],
        resume: bool,
        defaults: str = "",
        data: str = "photos",
    ) -> None:
        """Hold runs alone, new or to go on with, and check that they are what is asked for.

        Early: before a model loads, it is known that the folders can be written, and nobody else
        trains there. Siblings that a killed process had no time for are made later.

        Args:
            config: The options, as TOML.
            record: Digests of what is trained on, by name.
            resume: Go on with those that exist.
            defaults: What options come to that a run of earlier versions is silent on, as TOML.
            data: What the record is of, in words.

        Raises:
            StudioError: a run is another process's, exists already, is none to go on with, or
                began with other options or photos.
        """
        if resume and not any(run.exists for run in runs):
            raise StudioError(
                f"--resume: {runs[0].folder} is no run (it holds no {CONFIG}). Leave --resume out "
                f"to begin it; or if it was moved, name it by `--config ITS-FOLDER/{CONFIG}`."
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
        """Make the runs that do not exist yet, and say that all of them are at work.

        Args:
            config: A longer plan than the runs began with takes the place of theirs.
            record: As `claim` was told.
        """
        for run, _ in self._held:
            if run.exists:
                run.extend(config)
            else:
                Run.create(run.folder, config, record, run.method)
            status = run.read_status()
            run.set_status("running", status.get("step", 0), status.get("steps", 0))
            self._begun.append(run)

    def _tell(self, state: str, error: str | None = None) -> None:
        """Leave a state in every run that says nothing of this attempt's end yet."""
        for run, _ in self._held:
            status = run.read_status()
            if status.get("state") == "running" and status.get("pid") == os.getpid():
                extra = {} if error is None else {"error": error}
                with contextlib.suppress(DiskError):  # That may be the very error.
                    run.set_status(state, status.get("step", 0), status.get("steps", 0), **extra)

    def _last_word(self, stop: Interrupted) -> str:
        name = stop.signal.name
        if not all(run.exists for run, _ in self._held) or not self._held:
            return f"Stopped by {name}; nothing was begun. Start again with the same command."
        step = min(max(run.checkpoints(), default=0) for run, _ in self._held)
        return (
            f"Stopped at once by {name}; saved is step {step}. Go on with the same command and "
            "--resume."
        )

    def _release(self) -> None:
        while self._held:
            run, lock = self._held.pop()
            lock.release(forget=not run.exists)
