"""The draft of a training: its photos and form values, until a training is started from it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nora_studio.app.server.companions import WAITING
from nora_studio.app.server.draft_trash import (
    DRAFT,
    EXAMPLE,
    empty_draft_trash,
    locked_draft,
    trash_draft,
)
from nora_studio.app.server.job import ENDED, Job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.photo_report import photo_report
from nora_studio.app.server.quota import folder_bytes, reserve_room
from nora_studio.app.server.run_history import stem_and_method
from nora_studio.app.server.stored_photos import INCOMING, LOCK
from nora_studio.app.server.training import runs_of, shown_command, train_command
from nora_studio.app.server.upload_notes import NOTES
from nora_studio.app.server.uploads import Upload, add_photos, photos_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.mini.shipped import ShippedSubject
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.options_file import parse_options, to_flags
from nora_studio.options.paths import check_inside
from nora_studio.runs.atomic import replacing, write_text
from nora_studio.runs.history import find_runs

FORM = "draft.json"
_FORM_LIMIT = 20_000


def save_form(workspace: Workspace, values: dict[str, Any]) -> None:
    """Save the form's values for a reload."""
    text = json.dumps(values)
    if len(text) <= _FORM_LIMIT:
        write_text(workspace.folder / FORM, text + "\n")


def load_form(workspace: Workspace) -> dict[str, Any]:
    """Return the form's saved values; empty at first."""
    try:
        values = json.loads((workspace.folder / FORM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def use_example(workspace: Workspace, name: str) -> ShippedSubject:
    """Replace the draft's photos with a shipped subject's; the old ones can be restored.

    Raises:
        StudioError: there is none of that name.
    """
    subject = ShippedSubject.load(name)
    files = sorted((subject.folder / "photos").iterdir())
    with locked_draft(workspace) as folder:
        trash_draft(workspace)
        add_photos(workspace, DRAFT, [Upload(file, file.name) for file in files])
        write_text(folder / EXAMPLE, f"{name}\n")
    return subject


def free_name(workspace: Workspace, jobs: Jobs, name: str) -> str:
    """Return the name, with a number appended if a training has it already."""
    taken = {stem_and_method(run)[0] for run in find_runs(workspace.runs)}
    taken |= {job.title for job in jobs.list_jobs(workspace) if jobs.state(job) not in ENDED}
    head, _, tail = name.rpartition("-")
    stem, number = (head, int(tail) + 1) if head and tail.isdigit() else (name, 2)
    free = name
    while free in taken:
        free, number = f"{stem}-{number}", number + 1
    return free


def check_draft_photos(workspace: Workspace, resolution: int) -> None:
    """Refuse a draft without photos, or with one that the trainer would refuse.

    Raises:
        StudioError: there are no photos, one is unusable, or a link leads out of the workspace.
    """
    check_inside(workspace.folder, f"photos/{DRAFT}", "the photos")
    if not photos_of(workspace, DRAFT):
        raise StudioError("there are no photos yet. Add some in step 2, or use an example.")
    if not photo_report(workspace, DRAFT, resolution).is_usable:
        raise StudioError(
            "a photo cannot be used for training; it is marked in step 2. Remove or replace it."
        )


def uses_draft_photos(options: DreamboothOptions) -> bool:
    """Return whether a training uses the draft's photos, and not an earlier training's folder."""
    return Path(options.instance_dir) == Path("photos") / options.run_name


def submit_training(
    workspace: Workspace,
    jobs: Jobs,
    arguments: Sequence[str],
    options: DreamboothOptions,
    resolution: int,
    writes: int = 0,
) -> Job:
    """Queue a checked training; the draft's photos are copied under its name.

    Args:
        resolution: Side in pixels of the photos in training, if no option sets it.
        writes: Lower bound of the bytes that the runs will write.

    Raises:
        StudioError: photos are missing or unusable, the queue refuses, or there is no room.
    """
    if uses_draft_photos(options):
        check_draft_photos(workspace, options.resolution or resolution)
        # A copy, so that later changes of the draft do not affect this training.
        size = folder_bytes(workspace.photos / DRAFT)
        with (
            reserve_room(workspace, size + writes),
            replacing(workspace.photos / options.run_name) as fresh,
        ):
            ignored = shutil.ignore_patterns(LOCK, f"{INCOMING}*", WAITING, NOTES, EXAMPLE)
            shutil.copytree(workspace.photos / DRAFT, fresh, dirs_exist_ok=True, ignore=ignored)
    elif not (workspace.folder / options.instance_dir).is_dir():
        raise StudioError(
            f"--instance-dir: expected one of your folders, such as photos/my-mug; there is no "
            f"{options.instance_dir}."
        )
    command, shown = train_command(arguments), shown_command(arguments)
    runs = runs_of(options)
    job = jobs.submit(workspace, "train", options.run_name, command, shown, runs, writes=writes)
    empty_draft_trash(workspace)
    return job


def arguments_of_run(workspace: Workspace, jobs: Jobs, run: str) -> list[str]:
    """Return the arguments that train again with a run's settings, under a free name.

    Raises:
        StudioError: there is no such run, or its settings cannot be read.
    """
    config = workspace.run(run).folder / "config.toml"
    try:
        options = parse_options(["--config", str(config)])
    except StudioError as error:  # The message would name a path on the server.
        raise StudioError(f"the settings of {run} cannot be read. Choose another run.") from error
    name = free_name(workspace, jobs, options.run_name)
    return to_flags(replace(options, name=name, resume=False))
