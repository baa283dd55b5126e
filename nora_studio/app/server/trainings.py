"""A visitor's trainings: twin runs grouped together, with the job that writes them."""

from dataclasses import dataclass
from typing import Any

from nora_studio.adapters.methods.table import METHODS
from nora_studio.app.server.job import ENDED, Job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.run_history import settings_of, stem_and_method
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.runs.history import changed_at, find_runs
from nora_studio.runs.runs import Run


@dataclass(frozen=True)
class Training:
    """Twin runs, or a single run."""

    name: str
    """The runs' common stem."""
    runs: dict[str, Run]
    """Runs by method; empty while the training waits or loads."""
    job: Job | None = None
    """The newest job that writes the runs."""

    @property
    def settings(self) -> dict[str, Any]:
        """The runs' settings; empty before the first run exists."""
        return next(filter(None, map(settings_of, self.runs.values())), {})

    @property
    def first(self) -> Run | None:
        """The run of the table's first method, NoRA, if there is one; else any."""
        return self.runs.get(next(iter(METHODS))) or next(iter(self.runs.values()), None)


def find_trainings(workspace: Workspace, jobs: Jobs) -> list[Training]:
    """Return all trainings, newest first."""
    found: dict[str, dict[str, Run]] = {}
    ages: dict[str, float] = {}
    for run in find_runs(workspace.runs):
        name, method = stem_and_method(run)
        found.setdefault(name, {})[method] = run
        ages[name] = max(ages.get(name, 0.0), changed_at(run))
    latest: dict[str, Job] = {}
    for job in jobs.list_jobs(workspace):
        if job.kind == "train":
            latest[job.title] = job
            if job.title not in found and jobs.state(job) != "cancelled":
                found[job.title] = {}
            ages[job.title] = max(ages.get(job.title, 0.0), job.created)
    names = sorted(found, key=lambda name: -ages[name])
    return [Training(name, found[name], latest.get(name)) for name in names]


def find_training(workspace: Workspace, jobs: Jobs, name: str) -> Training:
    """Return a training by its name.

    Raises:
        StudioError: there is no training of that name.
    """
    for training in find_trainings(workspace, jobs):
        if training.name == name:
            return training
    raise StudioError(f"there is no training {name[:80]!r} here. It may have been deleted.")


def state_of(training: Training, jobs: Jobs) -> str:
    """Return waiting, running, finished, stopped, failed, interrupted or cancelled.

    The job's state comes first; a run without a job (copied here, for example) has its own.
    """
    if training.job is not None:
        state = jobs.state(training.job)
        if state not in ENDED or state in ("failed", "cancelled"):
            return "interrupted" if state == "failed" and _was_killed(training, jobs) else state
    states = {run.state for run in training.runs.values()}
    for state in ("running", "failed", "interrupted", "stopped"):
        if state in states:
            return state
    return "finished" if states == {"finished"} else "failed"


def _was_killed(training: Training, jobs: Jobs) -> bool:
    """Return whether its process was killed by a signal or left no exit status."""
    status = None if training.job is None else jobs.status(training.job)
    return status is None or status > 128


def why_failed(training: Training, jobs: Jobs) -> str:
    """Return the reason of a failure in one sentence."""
    lines = jobs.tail(training.job, 200) if training.job is not None else []
    for line in reversed(lines):
        for start in ("error: ", "Error: "):
            if line.startswith(start):
                return line.removeprefix(start)
    for run in training.runs.values():
        error = run.read_status().get("error")
        if error:
            return str(error)
    for line in reversed(lines):
        if "Error" in line or "Killed" in line:
            return line[:400]
    return (
        "Its process ended without an error message: it was killed, or the machine ran out of "
        "memory."
    )
