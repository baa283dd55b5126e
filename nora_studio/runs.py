"""A run is a folder: options, log, status, samples, checkpoints and the final adapter."""

import json
import os
import re
import shutil
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from nora_studio.atomic import replacing, write_text
from nora_studio.errors import StudioError

CONFIG = "config.toml"
LOG = "log.jsonl"
STATUS = "status.json"
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
        if (self.folder / CONFIG).exists():
            raise StudioError(
                f"{self.folder} is a run already. Go on with it by --resume, or choose another "
                "--name."
            )

    @classmethod
    def create(cls, folder: Path, config: str) -> "Run":
        """Make a new run folder.

        Raises:
            StudioError: it exists already, or cannot be made.
        """
        run = cls(folder)
        run.check_new()
        try:
            for name in ("samples", "checkpoints"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            write_text(folder / CONFIG, config)
        except OSError as error:
            raise StudioError(f"{folder} cannot be written: {error.strerror}.") from error
        return run

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Open an existing run.

        Raises:
            StudioError: there is none.
        """
        if not (folder / CONFIG).is_file():
            raise StudioError(f"--resume: {folder} is no run (it holds no {CONFIG}).")
        return cls(folder)

    def check_config(self, config: str) -> None:
        """Refuse to go on under other options than the run began with; more steps are no others.

        Raises:
            StudioError: an option differs; it is named with both values.
        """
        began, now = tomllib.loads((self.folder / CONFIG).read_text("utf-8")), tomllib.loads(config)
        free = {"resume"} | ({"steps"} if now.get("steps", 0) > began.get("steps", 0) else set())
        for name in sorted((began.keys() | now.keys()) - free):
            if began.get(name) != now.get(name):
                raise StudioError(
                    f"--resume: {self.folder} began with {name} = {began.get(name)!r}; got "
                    f"{now.get(name)!r}. Resume with `--config {self.folder / CONFIG} --resume`."
                )

    @property
    def planned_steps(self) -> int:
        """Steps of the whole run, as last planned."""
        return tomllib.loads((self.folder / CONFIG).read_text("utf-8"))["steps"]

    def extend(self, config: str) -> None:
        """Go on under a longer plan from now on."""
        write_text(self.folder / CONFIG, config)

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
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """Every whole line of the log; a line cut short by a crash is left out."""
        file = self.folder / LOG
        rows = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def forget_after(self, step: int) -> None:
        """Drop log lines and checkpoints past a step, so that a resumed run writes them anew.

        A later checkpoint that a sibling lacks would count as the newest, and drive out the ones
        that they share.
        """
        for later, folder in self.checkpoints().items():
            if later > step:
                shutil.rmtree(folder, ignore_errors=True)
        rows = [row for row in self.read_log() if row["step"] <= step]
        write_text(self.folder / LOG, "".join(json.dumps(row) + "\n" for row in rows))

    def set_status(self, state: str, step: int, steps: int, **values: Any) -> None:
        """Replace `status.json`: state is running, finished, stopped or failed."""
        status = {
            "state": state,
            "step": step,
            "steps": steps,
            "pid": os.getpid(),
            "time": round(time.time(), 1),
            **values,
        }
        write_text(self.folder / STATUS, json.dumps(status, indent=1) + "\n")

    def read_status(self) -> dict[str, Any]:
        """The last status written; empty before the first."""
        file = self.folder / STATUS
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

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
        with replacing(folder) as fresh:
            write(fresh)
        return folder

    def keep_newest(self, keep: int, spared: int | None = None) -> None:
        """Let the oldest checkpoints beyond `keep` go, but for that of one step."""
        for step, old in list(self.checkpoints().items())[:-keep]:
            if step != spared:
                shutil.rmtree(old)


def common_checkpoint(runs: list[Run]) -> int:
    """The newest step that every one of some sibling runs has a checkpoint of.

    Raises:
        StudioError: they share none.
    """
    shared = set.intersection(*(set(run.checkpoints()) for run in runs))
    if not shared:
        names = " and ".join(str(run.folder) for run in runs)
        raise StudioError(
            f"--resume: {names} have no checkpoint to go on from. Delete them and start again."
        )
    return max(shared)


def memory_gib(device: torch.device) -> float:
    """Peak memory of the device so far, or the process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30
