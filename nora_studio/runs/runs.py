"""A run is a folder: options, log, status, samples, checkpoints and the final adapter."""

import contextlib
import json
import re
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.runs import run_files
from nora_studio.runs.atomic import discard, replacing, tidy, write_text
from nora_studio.runs.checksums import write_checksums
from nora_studio.runs.liveness import ProcessMark
from nora_studio.runs.run_files import CONFIG, LOG, PHOTOS, STATUS
from nora_studio.runs.run_options import check_same_data, check_same_options, words_of
from nora_studio.runs.storage import GO_ON, START_AGAIN, writing

_CHECKPOINT = re.compile(r"step-(\d{6,})$")


@dataclass(frozen=True)
class Run:
    """One run's folder and what may be done with it."""

    folder: Path
    method: str = field(default="", compare=False)
    """Which method trains it, as far as whoever opens it knows."""

    def method_among(self, methods: Sequence[str]) -> str | None:
        """Which of some methods trains it: by its status, its folder's name, or its adapter's card.

        Twins have the same settings, so those do not tell. None: nothing tells.
        """
        if len(methods) == 1:
            return methods[0]
        names = {self.folder.name.lower(), self.folder.resolve().name.lower()}
        ends = [m for m in methods if any(name.endswith(f"-{m.lower()}") for name in names)]
        said = [self.method, self.read_status().get("method"), max(ends, key=len, default=None)]
        folders = (self.adapter, *reversed(self.checkpoints().values()))
        said += [run_files.method_of_card(folder / "card.json") for folder in folders]
        return next((word for word in said if word in methods), None)

    def check_new(self) -> None:
        """Refuse a folder that is a run already.

        Raises:
            StudioError: it is one.
        """
        if self.exists:
            raise StudioError(
                f"{self.folder} is a run already. Go on with it by --resume, or choose another "
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
            photos: Each photo's digest (`PhotoSet.record`), to go on with the same ones only.
            method: Which method trains it.

        Raises:
            StudioError: it exists already, or cannot be made.
        """
        run = cls(folder, method)
        run.check_new()
        with writing("a new run", folder, START_AGAIN):
            for name in ("samples", "checkpoints"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            if photos is not None:
                write_text(folder / PHOTOS, json.dumps(photos, indent=1) + "\n", durable=True)
            run.set_status("running", 0, tomllib.loads(config).get("steps", 0))
            # The last: a folder with it is a run, and a whole one.
            write_text(folder / CONFIG, config, durable=True)
        return run

    @property
    def exists(self) -> bool:
        """Whether the folder is a run."""
        try:
            return (self.folder / CONFIG).is_file()
        except OSError:  # No name for a folder (too long), or one that we may not look into.
            return False

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run.

        Raises:
            StudioError: there is none.
        """
        if not cls(folder).exists:
            raise StudioError(f"{folder} is no run (it holds no {CONFIG}). Check the path.")
        return cls(folder)

    def check_config(self, config: str, defaults: str = "", planned: Collection[str] = ()) -> None:
        """Refuse to go on under other options than the run began with (`check_same_options`).

        Args:
            config: The options now, as TOML.
            defaults: What an option comes to that the run is silent on: one of later versions.
            planned: Methods that plan over the run's steps.

        Raises:
            StudioError: an option differs; it is named with both values.
        """
        trained = words_of(run_files.read_config(self.folder / CONFIG).get("method"))
        method = None if set(planned).isdisjoint(trained) else self.method_among(trained)
        check_same_options(self.folder, config, defaults, method if method in planned else None)

    def check_photos(self, photos: Mapping[str, str], data: str = "photos") -> None:
        """Refuse to go on with other photos, or other `data`, than the run began with.

        Raises:
            StudioError: one is gone, new or changed; it is named.
        """
        check_same_data(self.folder, photos, data)

    def check_there(self) -> None:
        """Refuse to write into a run whose folder is gone: half of it would come back.

        Raises:
            StudioError: it is.
        """
        if not self.exists:
            raise StudioError(
                f"{self.folder} was moved or removed while it was in use. Put it back and go on "
                "with the same command and --resume, or begin another run."
            )

    def check_resumable(self) -> None:
        """Refuse to go on from nothing where that would be over a finished adapter.

        Raises:
            StudioError: it has an adapter, and no checkpoint.
        """
        if self.adapter.exists() and not self.checkpoints():
            raise StudioError(
                f"--resume: {self.folder} has its adapter, but no checkpoint is left to go on "
                f"from; {self.adapter} would be trained over from the start. Put a checkpoint "
                "back, or begin another run with another --name."
            )

    def tidy(self) -> None:
        """Finish or clear away what a killed process left under way. Only who holds the run may."""
        for folder in (self.folder, self.folder / "samples", self.folder / "checkpoints"):
            tidy(folder, alone=True)

    @property
    def planned_steps(self) -> int:
        """Steps of the whole run, as last planned; 0 where its settings are silent on them."""
        return run_files.read_config(self.folder / CONFIG).get("steps", 0)

    def extend(self, config: str) -> None:
        """Go on under a longer plan from now on."""
        with writing("its settings", self.folder, GO_ON):
            write_text(self.folder / CONFIG, config, durable=True)

    @property
    def adapter(self) -> Path:
        """The final adapter's folder."""
        return self.folder / "adapter"

    @property
    def samples(self) -> Path:
        """The folder of sample pictures."""
        return self.folder / "samples"

    def sample_file(self, name: str) -> Path:
        """Where a sample picture goes."""
        return self.samples / f"{name}.png"

    def log(self, step: int, **values: Any) -> None:
        """Append one line to the log."""
        file = self.folder / LOG
        with writing("a line", file, GO_ON), file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """Every whole line of the log; a line cut short by a crash is left out."""
        return run_files.read_log(self.folder / LOG)

    def forget_after(self, step: int) -> None:
        """Drop log lines and checkpoints past a step, so that a resumed run writes them once.

        A twin's checkpoint ahead of its siblings' would outlive those that they have in common.
        """
        rows = [row for row in self.read_log() if row["step"] <= step]
        with writing("its log", self.folder, GO_ON):
            write_text(self.folder / LOG, "".join(json.dumps(row) + "\n" for row in rows))
            for ahead, folder in self.checkpoints().items():
                if ahead > step:
                    discard(folder)

    def set_status(self, state: str, step: int, steps: int, **values: Any) -> None:
        """Replace `status.json`: state is running, finished, stopped or failed."""
        method = self.method or self.read_status().get("method", "")
        status = {
            "state": state,
            "step": step,
            "steps": steps,
            **asdict(ProcessMark.own()),
            "time": round(time.time(), 1),
            **({"method": method} if method else {}),
            **values,
        }
        file = self.folder / STATUS
        with writing("where it is", file, GO_ON):
            write_text(file, json.dumps(status, indent=1) + "\n")

    def read_status(self) -> dict[str, Any]:
        """The last status written; empty before the first, or if a power cut damaged it."""
        return run_files.read_status(self.folder / STATUS)

    @property
    def state(self) -> str:
        """running, finished, stopped, failed; interrupted: its process ended without a word; new:
        none has written a status yet."""
        state = self.read_status().get("state", "new")
        return "interrupted" if state == "running" and not self.is_alive() else state

    @property
    def has_adapter(self) -> bool:
        """Whether there is anything to draw with: the final adapter, or a checkpoint's."""
        return self.adapter.is_dir() or bool(self.checkpoints())

    def is_alive(self) -> bool:
        """Whether a process trains it now; a run "running" that is not alive was killed."""
        status = self.read_status()
        mark = ProcessMark.of(status)
        return status.get("state") == "running" and mark is not None and mark.is_alive()

    def checkpoints(self) -> dict[int, Path]:
        """Whole checkpoints by step, oldest first."""
        found = {}
        for folder in (self.folder / "checkpoints").glob("step-*"):
            match = _CHECKPOINT.fullmatch(folder.name)
            if match:
                found[int(match[1])] = folder
        return dict(sorted(found.items()))

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Save a checkpoint whole.

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
        """A folder for the final adapter, which takes its place whole when the block ends well."""
        self.check_there()
        with writing("the final adapter", self.adapter, GO_ON), replacing(self.adapter) as fresh:
            yield fresh

    def keep_newest(self, keep: int, spared: int | None = None) -> None:
        """Let the oldest checkpoints beyond `keep` go, but for that of one step."""
        for step, old in list(self.checkpoints().items())[:-keep]:
            if step != spared:
                discard(old)
