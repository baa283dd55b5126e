"""Results of adapter commands: a file, a folder, or the page that a push would send."""

from pathlib import Path

from nora_studio.app.server.job import Job
from nora_studio.app.server.workspace import Workspace


def result_of(workspace: Workspace, job: Job) -> Path | None:
    """Return the file or folder that a job wrote; None where there is none."""
    words = list(job.command)
    if "--out" not in words[:-1]:
        return None
    path = workspace.folder / words[words.index("--out") + 1]
    return path if path.exists() else None


def card_in_push_preview(text: str) -> str:
    """Return the model card that a dry run of a push printed; empty if there is none yet."""
    _, begins, page = text.partition("\n---\n")
    page, ends, _ = page.rpartition("\nNothing was sent")
    return f"---\n{page}" if begins and ends else ""


def files_of(folder: Path) -> list[Path]:
    """Return the files of a merged pipeline, sorted by their paths."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def is_preview(job: Job) -> bool:
    """Return whether a job only showed what would be published."""
    return job.kind == "push" and "--dry-run" in job.command
