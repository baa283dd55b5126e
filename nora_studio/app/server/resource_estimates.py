"""Estimates of a training's time and memory, from the trainer's preflights."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nora_studio.app.server.job import ENDED, MEASURES, Job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.limits import GIB
from nora_studio.app.server.resource_use import least_preflight_writes, training_bytes
from nora_studio.app.server.training import shown_command, train_command
from nora_studio.app.server.workspace import Workspace
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.options_file import to_toml

KIND = "measure"


@dataclass(frozen=True)
class ResourceEstimate:
    """Time, memory and disk space that a training will need."""

    minutes: float
    memory_gib: float
    fits: bool
    """Whether the device has that much memory."""
    disk_bytes: float | None
    """Size of its adapters and checkpoints; None: unknown."""


class ResourceEstimateStore:
    """A studio's preflights; the files hold measurements only, so all visitors share them."""

    def __init__(self, home: Path) -> None:
        self.folder = home / MEASURES
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def find(self, options: DreamboothOptions) -> ResourceEstimate | None:
        """Return the estimate for a training like this one; None: it is not measured yet."""
        for file in self.folder.glob(f"{_digest(options)}-*.json"):
            try:
                facts = json.loads(file.read_text(encoding="utf-8"))
                if facts["out_of_memory"]:
                    return ResourceEstimate(0.0, 0.0, fits=False, disk_bytes=None)
                more_steps = (options.steps or 0) - int(file.stem.rsplit("-", 1)[1])
                minutes = facts["minutes"] + more_steps * facts["seconds_per_step"] / 60
                peak = facts["peak"]
                fits = peak["needed_gib"] <= peak["total_gib"]
                disk = facts["disk_needed_gib"] * GIB
                return ResourceEstimate(minutes, peak["needed_gib"], fits, disk)
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def begin(
        self, workspace: Workspace, jobs: Jobs, options: DreamboothOptions, arguments: Sequence[str]
    ) -> Job:
        """Queue a preflight of the trainer that measures a training.

        Raises:
            StudioError: too many of the visitor's jobs wait, or there is no room for a checkpoint.
        """
        file = self.folder / f"{_digest(options)}-{options.steps}.json"
        measured = [*arguments, "--preflight", "--preflight-out", str(file)]
        shown = shown_command([*arguments, "--preflight"])
        title, command = _digest(options), train_command(measured)
        writes = least_preflight_writes(options)
        return jobs.submit(workspace, KIND, title, command, shown, writes=writes)

    def bytes_of(self, options: DreamboothOptions) -> int:
        """Return a lower bound of the bytes that a training writes: measured or estimated."""
        estimate = self.find(options)
        return training_bytes(options, estimate.disk_bytes if estimate is not None else None)

    def under_way(self, workspace: Workspace, jobs: Jobs) -> Job | None:
        """Return the visitor's preflight that has not ended."""
        own = (job for job in reversed(jobs.list_jobs(workspace)) if job.kind == KIND)
        return next((job for job in own if jobs.state(job) not in ENDED), None)

    def last_preflight(
        self, workspace: Workspace, jobs: Jobs, options: DreamboothOptions
    ) -> Job | None:
        """Return the visitor's latest preflight of a training like this one."""
        own = (job for job in reversed(jobs.list_jobs(workspace)) if job.kind == KIND)
        return next((job for job in own if job.title == _digest(options)), None)


def _digest(options: DreamboothOptions) -> str:
    """Return a digest of all options that time and memory depend on, except steps and photos."""
    alike = replace(
        options,
        instance_dir=Path("photos"),
        prompt="[V]",
        name=None,
        trigger=None,
        seed=0,
        sample_seed=0,
        steps=1,
        sample_prompts=tuple(str(number) for number in range(len(options.sample_prompts))),
    )
    return hashlib.sha256(to_toml(alike).encode()).hexdigest()[:24]
