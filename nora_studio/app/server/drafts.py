"""What a visitor is about to train: its photos and its name, until a start makes a run of them."""

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
    changing_draft,
    forget_put_aside,
    put_draft_aside,
)
from nora_studio.app.server.job import ENDED, Job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.past_runs import stem_and_method
from nora_studio.app.server.photo_report import photo_report
from nora_studio.app.server.quota import adding, folder_bytes
from nora_studio.app.server.stored_photos import INCOMING, LOCK
from nora_studio.app.server.training import as_shown, runs_of, train_command
from nora_studio.app.server.upload_notes import NOTES
from nora_studio.app.server.uploads import Incoming, add_photos, photos_of
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


def keep_form(workspace: Workspace, values: dict[str, Any]) -> None:
    """Keep what stands in the form, for a reload."""
    text = json.dumps(values)
    if len(text) <= _FORM_LIMIT:
        write_text(workspace.folder / FORM, text + "\n")


def kept_form(workspace: Workspace) -> dict[str, Any]:
    """What stood in the form; empty at first."""
    try:
        values = json.loads((workspace.folder / FORM).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def take_example(workspace: Workspace, name: str) -> ShippedSubject:
    """A shipped subject's photos instead of whatever was there, which can be brought back.

    Raises:
        StudioError: there is none of that name.
    """
    subject = ShippedSubject.load(name)
    files = sorted((subject.folder / "photos").iterdir())
    with changing_draft(workspace) as folder:
        put_draft_aside(workspace)
        add_photos(workspace, DRAFT, [Incoming(file, file.name) for file in files])
        write_text(folder / EXAMPLE, f"{name}\n")
    return subject


def free_name(workspace: Workspace, jobs: Jobs, name: str) -> str:
    """The name itself, or with a number where a training has it."""
    taken = {stem_and_method(run)[0] for run in find_runs(workspace.runs)}
    taken |= {job.title for job in jobs.of(workspace) if jobs.state(job) not in ENDED}
    head, _, tail = name.rpartition("-")
    stem, number = (head, int(tail) + 1) if head and tail.isdigit() else (name, 2)
    free = name
    while free in taken:
        free, number = f"{stem}-{number}", number + 1
    return free


def check_draft(workspace: Workspace, resolution: int) -> None:
    """Refuse to begin without photos, or with one that the trainer would refuse.

    Raises:
        StudioError: so it is; or a link among them leads elsewhere.
    """
    check_inside(workspace.folder, f"photos/{DRAFT}", "the photos")
    if not photos_of(workspace, DRAFT):
        raise StudioError("there are no photos yet. Add some in step 2, or take an example.")
    if not photo_report(workspace, DRAFT, resolution).is_usable:
        raise StudioError(
            "a photo cannot be trained on; it is marked in step 2. Remove or replace it."
        )


def is_of_draft(options: DreamboothOptions) -> bool:
    """Whether a training takes the draft's photos, and no folder of an earlier one's."""
    return Path(options.instance_dir) == Path("photos") / options.run_name


def begin_training(
    workspace: Workspace,
    jobs: Jobs,
    arguments: Sequence[str],
    options: DreamboothOptions,
    resolution: int,
    writes: int = 0,
) -> Job:
    """Put a checked training into the queue; the draft's photos are copied under its name.

    Args:
        resolution: Side in pixels that photos are trained at, where no option says.
        writes: Bytes that the runs at least come to.

    Raises:
        StudioError: photos are missing or unusable, the queue refuses, or there is no room.
    """
    if is_of_draft(options):
        check_draft(workspace, options.resolution or resolution)
        # A copy: what is changed in the draft later leaves this training alone.
        size = folder_bytes(workspace.photos / DRAFT)
        with (
            adding(workspace, size + writes),
            replacing(workspace.photos / options.run_name) as fresh,
        ):
            ignored = shutil.ignore_patterns(LOCK, f"{INCOMING}*", WAITING, NOTES, EXAMPLE)
            shutil.copytree(workspace.photos / DRAFT, fresh, dirs_exist_ok=True, ignore=ignored)
    elif not (workspace.folder / options.instance_dir).is_dir():
        raise StudioError(
            f"--instance-dir: expected one of your folders, such as photos/my-mug; there is no "
            f"{options.instance_dir}."
        )
    command, shown = train_command(arguments), as_shown(arguments)
    runs = runs_of(options)
    job = jobs.submit(workspace, "train", options.run_name, command, shown, runs, writes=writes)
    forget_put_aside(workspace)
    return job


def arguments_again(workspace: Workspace, jobs: Jobs, run: str) -> list[str]:
    """The arguments that train with a run's settings once more, under a free name.

    Raises:
        StudioError: there is no such run, or its settings cannot be read.
    """
    config = workspace.run(run).folder / "config.toml"
    try:
        options = parse_options(["--config", str(config)])
    except StudioError as error:  # It names a path of the server's.
        raise StudioError(f"the settings of {run} cannot be read. Choose another run.") from error
    name = free_name(workspace, jobs, options.run_name)
    return to_flags(replace(options, name=name, resume=False))
