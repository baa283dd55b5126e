"""A visitor's runs as History shows them: their summaries, the trash, and restoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nora_studio.app.server.job import ENDED
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.runs.history import (
    RunSummary,
    Settings,
    empty_trash,
    find_runs,
    list_trash,
    method_of,
    move_to_trash,
    read_settings,
    restore_from_trash,
    summarize,
)
from nora_studio.runs.runs import Run
from nora_studio.runs.sample_files import latest_sample


@dataclass(frozen=True)
class RunRow:
    """A run as one row of History."""

    summary: RunSummary
    thumbnail: Path | None
    """Its latest sample."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.summary.run.folder.name


def run_rows(workspace: Workspace) -> list[RunRow]:
    """Return all runs, the most recently changed first; damaged ones are included."""
    found = [RunRow(summarize(run), latest_sample(run)) for run in find_runs(workspace.runs)]
    return sorted(found, key=lambda row: -row.summary.time)


def settings_of(run: Run) -> Settings:
    """Return a run's settings; empty if they are damaged."""
    try:
        return read_settings(run)
    except StudioError:
        return {}


def stem_and_method(run: Run) -> tuple[str, str]:
    """Return a run's name without its method, which twins have in common, and the method."""
    # A method's name may contain a hyphen, so prefer the settings.
    method = method_of(run, settings_of(run)) or run.folder.name.rpartition("-")[2]
    return run.folder.name.removesuffix(f"-{method}"), method


def delete_runs(workspace: Workspace, jobs: Jobs, names: Sequence[str]) -> list[str]:
    """Move runs to the trash, from where each can be restored by its name.

    Raises:
        StudioError: one does not exist, is in training or waits for it, or is read by another job;
            then none is moved.
    """
    runs = [workspace.run(name) for name in dict.fromkeys(names)]
    for run in runs:
        name = run.folder.name
        job = jobs.find_by_run(workspace, name)
        if run.is_alive() or (job is not None and jobs.state(job) not in ENDED):
            raise StudioError(f"{name} is still training or queued. Stop it first, under Watch.")
        _check_unused(workspace, jobs, name)
    for run in runs:
        try:
            move_to_trash(run)
        except StudioError as error:  # The message would name paths on the server.
            raise StudioError(
                f"{run.folder.name} could not be moved to the trash. Try again later."
            ) from error
    for run in runs:
        jobs.forget(workspace, run.folder.name)
    return [run.folder.name for run in runs]


_READERS = {
    "fidelity": "is being measured. Stop it first, under Scores.",
    "score": "is being measured. Stop it first, under Scores.",
}


def _check_unused(workspace: Workspace, jobs: Jobs, name: str) -> None:
    """Refuse to delete a run that an unfinished job reads.

    Raises:
        StudioError: there is such a job.
    """
    place = f"runs/{name}"
    for job in jobs.list_jobs(workspace):
        reads = any(word == place or word.startswith(f"{place}/") for word in job.command)
        if reads and jobs.state(job) not in ENDED:
            why = _READERS.get(job.kind, f"is in use ({job.kind} {job.title}). Stop that first.")
            raise StudioError(f"{name} {why}")


def deleted_runs(workspace: Workspace) -> list[str]:
    """Return the names of the runs in the trash, latest first, each once."""
    return list(dict.fromkeys(path.name.rpartition("~")[0] for path in list_trash(workspace.runs)))


def restore_run(workspace: Workspace, name: str) -> Run:
    """Restore the run of that name that was deleted last.

    Raises:
        StudioError: there is no such run, or another one has its name now.
    """
    check_name(name)
    if (workspace.runs / name).exists():
        raise StudioError(f"there is another run {name} now. Delete that one first.")
    if name not in deleted_runs(workspace):
        raise StudioError(
            f"there is no deleted run {name} here. It may have been deleted for good."
        )
    return restore_from_trash(name, workspace.runs)


def delete_for_good(workspace: Workspace) -> int:
    """Empty the trash, and return how many runs it held."""
    return len(empty_trash(workspace.runs))
