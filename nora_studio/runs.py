"""A run is a folder: options, log, status, samples, checkpoints and the final adapter."""

import contextlib
import json
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from nora_studio.atomic import discard, replacing, tidy, write_text
from nora_studio.errors import StudioError
from nora_studio.liveness import ProcessMark
from nora_studio.storage import GO_ON, START_AGAIN, writing

CONFIG = "config.toml"
LOG = "log.jsonl"
STATUS = "status.json"
PHOTOS = "photos.json"
_CHECKPOINT = re.compile(r"step-(\d{6,})$")


@dataclass(frozen=True)
class Run:
    """One run's folder and what may be done with it."""

    folder: Path

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
    def create(cls, folder: Path, config: str, photos: Mapping[str, str] | None = None) -> "Run":
        """Make a new run folder.

        Args:
            photos: Each photo's digest (`PhotoSet.record`), to go on with the same ones only.

        Raises:
            StudioError: it exists already, or cannot be made.
        """
        run = cls(folder)
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
        return (self.folder / CONFIG).is_file()

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run.

        Raises:
            StudioError: there is none.
        """
        if not cls(folder).exists:
            raise StudioError(
                f"--resume: {folder} is no run (it holds no {CONFIG}). Leave --resume out to begin "
                "it."
            )
        return cls(folder)

    def check_config(self, config: str, defaults: str = "") -> None:
        """Refuse to go on under other options than the run began with; more steps are no others.

        Args:
            config: The options now, as TOML.
            defaults: What an option comes to that the run is silent on: one of later versions.

        Raises:
            StudioError: an option differs; it is named with both values.
        """
        texts = (self.folder / CONFIG).read_text("utf-8"), config
        began, now = (_flat(tomllib.loads(defaults)) | _flat(tomllib.loads(text)) for text in texts)
        longer = now.get("steps", 0) > began.get("steps", 0)
        if longer and self.folder.name.endswith("-adalora"):
            raise StudioError(
                f"--steps: AdaLoRA allots its ranks over the {began.get('steps')} steps that "
                f"{self.folder} was planned for; it cannot go on longer. Begin a new run."
            )
        free = {"resume"} | ({"steps"} if longer else set())
        for name in sorted((began.keys() | now.keys()) - free):
            if began.get(name) != now.get(name):
                raise StudioError(
                    f"--resume: {self.folder} began with {name} = {began.get(name)!r}; got "
                    f"{now.get(name)!r}. Resume with `--config {self.folder / CONFIG} --resume`."
                )

    def check_photos(self, photos: Mapping[str, str], data: str = "photos") -> None:
        """Refuse to go on with other photos, or other `data`, than the run began with.

        Raises:
            StudioError: one is gone, new or changed; it is named.
        """
        file = self.folder / PHOTOS
        began = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else photos
        for name in sorted(began.keys() | photos.keys()):
            if began.get(name) == photos.get(name):
                continue
            change = "changed" if name in began and name in photos else "is new"
            beside = ", captions and masks too" if data == "photos" else ""
            raise StudioError(
                f"--resume: the {data} are not those that {self.folder} began with: {name} "
                f"{change if name in photos else 'is gone'}. Put them back as they were{beside}, "
                "or begin another run with another --name."
            )

    def tidy(self) -> None:
        """Finish or clear away what a killed process left under way. Only who holds the run may."""
        for folder in (self.folder, self.folder / "samples", self.folder / "checkpoints"):
            tidy(folder, alone=True)

    @property
    def planned_steps(self) -> int:
        """Steps of the whole run, as last planned."""
        return tomllib.loads((self.folder / CONFIG).read_text("utf-8"))["steps"]

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
        file = self.folder / LOG
        rows = []
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        for line in text.splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return [row for row in rows if isinstance(row, dict) and "step" in row]

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
        status = {
            "state": state,
            "step": step,
            "steps": steps,
            **asdict(ProcessMark.own()),
            "time": round(time.time(), 1),
            **values,
        }
        file = self.folder / STATUS
        with writing("where it is", file, GO_ON):
            write_text(file, json.dumps(status, indent=1) + "\n")

    def read_status(self) -> dict[str, Any]:
        """The last status written; empty before the first, or if a power cut damaged it."""
        try:
            status = json.loads((self.folder / STATUS).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

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
        if status.get("state") != "running" or "started" not in status:
            return False
        return ProcessMark(status["pid"], status["started"], status["host"]).is_alive()

    def checkpoints(self) -> dict[int, Path]:
        """Whole checkpoints by step, oldest first."""
        found = {}
        for folder in (self.folder / "checkpoints").glob("step-*"):
            match = _CHECKPOINT.fullmatch(folder.name)
            if match:
                found[int(match[1])] = folder
        return dict(sorted(found.items()))

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Save a checkpoint whole."""
        folder = self.folder / "checkpoints" / f"step-{step:06d}"
        with writing("a checkpoint", folder, GO_ON), replacing(folder) as fresh:
            write(fresh)
        return folder

    @contextlib.contextmanager
    def saving_adapter(self) -> Iterator[Path]:
        """A folder for the final adapter, which takes its place whole when the block ends well."""
        with writing("the final adapter", self.adapter, GO_ON), replacing(self.adapter) as fresh:
            yield fresh

    def keep_newest(self, keep: int, spared: int | None = None) -> None:
        """Let the oldest checkpoints beyond `keep` go, but for that of one step."""
        for step, old in list(self.checkpoints().items())[:-keep]:
            if step != spared:
                discard(old)


def common_checkpoint(runs: list[Run]) -> int:
    """The newest step that every one of some sibling runs has a checkpoint of, 0 before the first.

    Siblings save one after the other, so a process that was killed at their first checkpoint leaves
    some with that one and others with none.

    Raises:
        StudioError: they share none, but had more: some were removed.
    """
    found = [set(run.checkpoints()) for run in runs]
    shared = set.intersection(*found)
    if not shared and len(set.union(*found)) > 1:
        names = " and ".join(str(run.folder) for run in runs)
        raise StudioError(
            f"--resume: {names} have no checkpoint in common to go on from. Put back what was "
            "removed, or begin anew with another --name."
        )
    return max(shared, default=0)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A TOML table's values by dotted name."""
    values: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            values |= _flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def memory_gib(device: torch.device) -> float:
    """Peak memory of the device so far, or the process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30
