"""A run: a folder with options, log, status, samples, checkpoints and the final adapter."""

import contextlib
import json
import re
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.runs import run_files
from nora_studio.runs.atomic import discard, replacing, tidy, write_text
from nora_studio.runs.checksums import write_checksums
from nora_studio.runs.disk_errors import GO_ON, START_AGAIN, writing
from nora_studio.runs.process_id import ProcessId
from nora_studio.runs.run_files import CONFIG, LOG, PHOTOS, STATUS
from nora_studio.runs.run_options import check_same_data, check_same_options, split_methods
from nora_studio.runs.strict_json import JsonObject

_CHECKPOINT = re.compile(r"step-(\d{6,})$")


@dataclass(frozen=True)
class Run:
    """A run's folder, with the operations on it."""

    folder: Path
    method: str = field(default="", compare=False)
    """The method that trains it, if known to the caller."""

    def method_among(self, methods: Sequence[str]) -> str | None:
        """Return which of some methods trains the run; None if it is unknown.

        Read from its status, its folder's name, or its adapter's card: the settings are those of
        all twins.
        """
        if len(methods) == 1:
            return methods[0]
        names = {self.folder.name.lower(), self.folder.resolve().name.lower()}
        ends = [m for m in methods if any(name.endswith(f"-{m.lower()}") for name in names)]
        found = [self.method, self.read_status().get("method"), max(ends, key=len, default=None)]
        folders = (self.adapter, *reversed(self.checkpoints().values()))
        found += [run_files.method_of_card(folder / "card.json") for folder in folders]
        return next((method for method in found if method in methods), None)

    def check_new(self) -> None:
        """Refuse a folder that is a run already.

        Raises:
            StudioError: the folder is a run.
        """
        if self.exists:
            raise StudioError(
                f"{self.folder} is a run already. Continue it with --resume, or choose another "
                "--name."
            )

    @classmethod
    def create(
        cls,
        folder: Path,
        config: str,
        photos: Mapping[str, str] | None = None,
        method: str = "",
    ) -> "Run":
        """Make a new run folder.

        Args:
            photos: Each photo's digest (`PhotoSet.record`), to be checked when resuming.
            method: The method that trains it.

        Raises:
            StudioError: the run exists already, or cannot be created.
        """
        run = cls(folder, method)
        run.check_new()
        with writing("a new run", folder, START_AGAIN):
            for name in ("samples", "checkpoints"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            if photos is not None:
                write_text(folder / PHOTOS, json.dumps(photos, indent=1) + "\n", durable=True)
            run.set_status("running", 0, tomllib.loads(config).get("steps", 0))
            # Written last: a folder with this file is a complete run.
            write_text(folder / CONFIG, config, durable=True)
        return run

    @property
    def exists(self) -> bool:
        """Whether the folder is a run."""
        try:
            return (self.folder / CONFIG).is_file()
        except OSError:  # The name is too long, or the folder may not be read.
            return False

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run.

        Raises:
            StudioError: the folder is not a run.
        """
        if not cls(folder).exists:
            raise StudioError(f"{folder} is not a run: it has no {CONFIG}. Check the path.")
        return cls(folder)

    def check_config(self, config: str, defaults: str = "", planned: Collection[str] = ()) -> None:
        """Refuse to resume with other options than the run was started with (`check_same_options`).

        Args:
            config: The current options, as TOML.
            defaults: Values for options that the run's settings lack, as later versions added them.
            planned: Methods that plan over all steps of a run.

        Raises:
            StudioError: an option differs; the message has both values.
        """
        trained = split_methods(run_files.read_config(self.folder / CONFIG).get("method"))
        method = None if set(planned).isdisjoint(trained) else self.method_among(trained)
        check_same_options(self.folder, config, defaults, method if method in planned else None)

    def check_photos(self, photos: Mapping[str, str], data: str = "photos") -> None:
        """Refuse to resume with other photos, or other `data`, than the run was started with.

        Raises:
            StudioError: a file is missing, new or changed; the message names it.
        """
        check_same_data(self.folder, photos, data)

    def check_there(self) -> None:
        """Refuse to write to a run whose folder is gone: only a part of it would be created again.

        Raises:
            StudioError: the folder was moved or removed.
        """
        if not self.exists:
            raise StudioError(
                f"{self.folder} was moved or removed while it was in use. Put it back and continue "
                "with the same command and --resume, or start another run."
            )

    def check_resumable(self) -> None:
        """Refuse to resume from the start if that would overwrite a finished adapter.

        Raises:
            StudioError: the run has an adapter, but no checkpoint.
        """
        if self.adapter.exists() and not self.checkpoints():
            raise StudioError(
                f"--resume: {self.folder} has its adapter, but no checkpoint to continue from; "
                f"training from the start would overwrite {self.adapter}. Restore a checkpoint, or "
                "start another run with another --name."
            )

    def tidy(self) -> None:
        """Finish or remove what a killed process left half done. The caller must hold the lock."""
        for folder in (self.folder, self.folder / "samples", self.folder / "checkpoints"):
            tidy(folder, alone=True)

    @property
    def planned_steps(self) -> int:
        """Steps of the whole run, as last planned; 0 if its settings do not say."""
        return run_files.read_config(self.folder / CONFIG).get("steps", 0)

    def replace_config(self, config: str) -> None:
        """Replace the run's settings."""
        with writing("its settings", self.folder, GO_ON):
            write_text(self.folder / CONFIG, config, durable=True)

    @property
    def adapter(self) -> Path:
        """The final adapter's folder."""
        return self.folder / "adapter"

    @property
    def samples(self) -> Path:
        """The folder of samples."""
        return self.folder / "samples"

    def sample_file(self, name: str) -> Path:
        """Return the file for a sample."""
        return self.samples / f"{name}.png"

    def log(self, step: int, **values: object) -> None:
        """Append one line to the log."""
        file = self.folder / LOG
        with writing("a line", file, GO_ON), file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")

    def read_log(self) -> list[JsonObject]:
        """Read the lines of the log; a line truncated by a crash is left out."""
        return run_files.read_log(self.folder / LOG)

    def forget_after(self, step: int) -> None:
        """Remove log lines and checkpoints after a step, so that a resumed run writes them once.

        A checkpoint that only one twin has would otherwise be kept longer than the common ones.
        """
        rows = [row for row in self.read_log() if row["step"] <= step]
        with writing("its log", self.folder, GO_ON):
            write_text(self.folder / LOG, "".join(json.dumps(row) + "\n" for row in rows))
            for ahead, folder in self.checkpoints().items():
                if ahead > step:
                    discard(folder)

    def set_status(self, state: str, step: int, steps: int, **values: object) -> None:
        """Replace `status.json`: state is running, finished, stopped or failed."""
        method = self.method or self.read_status().get("method", "")
        status = {
            "state": state,
            "step": step,
            "steps": steps,
            **asdict(ProcessId.own()),
            "time": round(time.time(), 1),
            **({"method": method} if method else {}),
            **values,
        }
        file = self.folder / STATUS
        with writing("the run's status", file, GO_ON):
            write_text(file, json.dumps(status, indent=1) + "\n")

    def read_status(self) -> JsonObject:
        """Read the last status; empty before the first, or if a power cut damaged it."""
        return run_files.read_status(self.folder / STATUS)

    @property
    def state(self) -> str:
        """running, finished, stopped or failed; interrupted: its process was killed; new: it has no
        status yet."""
        state = self.read_status().get("state", "new")
        return "interrupted" if state == "running" and not self.is_alive() else state

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter to use: the final one, or a checkpoint's."""
        return self.adapter.is_dir() or bool(self.checkpoints())

    def is_alive(self) -> bool:
        """Return whether a process trains it now; a "running" run that is not alive was killed."""
        status = self.read_status()
        mark = ProcessId.from_values(status)
        return status.get("state") == "running" and mark is not None and mark.is_alive()

    def checkpoints(self) -> dict[int, Path]:
        """Return the complete checkpoints by step, oldest first."""
        found = {}
        for folder in (self.folder / "checkpoints").glob("step-*"):
            match = _CHECKPOINT.fullmatch(folder.name)
            if match:
                found[int(match[1])] = folder
        return dict(sorted(found.items()))

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Save a checkpoint atomically and return its folder.

        Raises:
            StudioError: the run's folder is gone, or cannot be written to.
        """
        self.check_there()
        folder = self.folder / "checkpoints" / f"step-{step:06d}"
        with writing("a checkpoint", folder, GO_ON), replacing(folder) as fresh:
            write(fresh)
            write_checksums(fresh)
        return folder

    @contextlib.contextmanager
    def saving_adapter(self) -> Iterator[Path]:
        """Yield a folder for the final adapter; it replaces the old one if the block succeeds."""
        self.check_there()
        with writing("the final adapter", self.adapter, GO_ON), replacing(self.adapter) as fresh:
            yield fresh

    def keep_newest(self, keep: int, spared: int | None = None) -> None:
        """Remove all but the newest `keep` checkpoints and that of the step `spared`."""
        for step, old in list(self.checkpoints().items())[:-keep]:
            if step != spared:
                discard(old)
