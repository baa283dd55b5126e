"""Image jobs in a visitor's folder, `pictures/<id>/`: their requests, states and files."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.app.server.image_requests import ImageRequest, parse_request
from nora_studio.app.server.limits import IMAGE_LIMITS, LimitCheck
from nora_studio.app.server.quota import check_room
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.runs.atomic import discard, write_text

JOB_FILE, TRASH = "drawing.json", ".trash"
PROMPT_LIMIT, LABEL_LIMIT = 500, 80
"""Characters."""
USUAL_SIDE = 1536
"""Side in pixels that the quota check assumes if no size is given."""

State = Literal["waiting", "drawing", "scoring", "finished", "cancelled", "failed", "interrupted"]
UNDER_WAY = ("waiting", "drawing", "scoring")
ImageIndex = tuple[int, int, int]
"""Numbers of an image's column, prompt and seed."""


@dataclass(frozen=True)
class ImageJob:
    """A request for images, its state, and the images so far."""

    id: str
    state: State
    request: ImageRequest
    """Adapters and photos by their paths in the workspace."""
    view: dict[str, Any]
    """Values that the page stores with it; not used here."""
    files: dict[ImageIndex, str]
    """Paths of the finished images in the job's folder."""
    words: dict[int, str]
    """Column -> the word that it used for "[V]"."""
    created: float
    """Seconds since 1970."""
    error: str | None = None
    """One sentence on why it failed."""
    waits_for: str | None = None
    """One sentence on why it has not begun."""
    scores: dict[str, dict[str, list[float]]] | None = None
    """Score -> column's label -> one value per image, prompts in the outer loop."""
    differences: tuple[dict[str, Any], ...] = ()
    """Findings (`compare.ScoreDifference`), paired, with intervals."""
    judge: str | None = None
    """Name of the CLIP that gave the scores."""
    unscored: str | None = None
    """One sentence on why requested scores are missing."""
    warnings: tuple[str, ...] = ()
    """One sentence for each prompt that the encoders may not read as intended."""

    @property
    def awaits_scores(self) -> bool:
        """Whether scores follow once all images are finished."""
        return self.request.score and self.unscored is None

    @property
    def is_under_way(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in UNDER_WAY

    def folder(self, workspace: Workspace) -> Path:
        """Return its folder in a workspace."""
        return workspace.pictures / self.id

    def file(self, workspace: Workspace, place: ImageIndex) -> Path | None:
        """Return an image's file; None while it does not exist."""
        name = self.files.get(place)
        file = self.folder(workspace) / name if name else None
        return file if file is not None and file.is_file() else None


def new_image_job(
    workspace: Workspace,
    values: Any,
    view: Mapping[str, Any] | None = None,
    is_allowed: Callable[[str], bool] = lambda _: True,
    is_owner: bool = False,
) -> ImageJob:
    """Return a new image job, checked against the limits and the visitor's own folder.

    Args:
        is_allowed: Whether a base (also one that an adapter names) or judge may be loaded.
        is_owner: Whether the owner's limits apply (`limits`).

    Raises:
        StudioError: the request is malformed, too large, or names files that are not the visitor's.
    """
    request = parse_request(values)
    _check_limits(request, LimitCheck(is_owner))
    request = replace(request, model=_base_of(workspace, request, is_allowed))
    check_room(workspace, image_bytes(request))
    for photo in request.references:
        workspace.own_file(photo)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    return ImageJob(name, "waiting", request, dict(view or {}), {}, {}, round(time.time(), 2))


def _base_of(workspace: Workspace, request: ImageRequest, is_allowed: Callable[[str], bool]) -> str:
    """Return the base that a request uses: the one it names, else the first adapter's own.

    Raises:
        StudioError: the base or the judge may not be loaded, none is named, or an adapter is
            damaged.
    """
    chosen = [choice for column in request.columns for choice in column.adapters]
    try:
        cards = [open_adapter(workspace.adapter(choice.path)).card for choice in chosen]
    except StudioError as error:
        raise StudioError(without_folder(workspace, str(error))) from error
    model = request.model or next((card.model for card in cards if card.model), "")
    if not model and cards:
        raise StudioError(
            "these adapters do not name their base. Choose adapters that do, or name a base."
        )
    for kind, name in (("base", model), ("judge", request.clip or "")):
        if name and not is_allowed(name):
            raise StudioError(
                f"the {kind} {name[:80]!r} is not among the models that may be loaded here. Choose "
                "another one."
            )
        workspace.check_model(name)
    return model or EMBEDDED


def image_bytes(request: ImageRequest, finished: int = 0) -> int:
    """Return an upper bound of the size of the images that are still missing."""
    return max(0, request.count - finished) * 3 * (request.size or USUAL_SIDE) ** 2


def without_folder(workspace: Workspace, message: str) -> str:
    """Remove the visitor's folder from a message: its path on the server is of no use to them."""
    for folder in (workspace.folder, workspace.folder.resolve()):
        message = message.replace(f"{folder}/", "")
    return message


def server_request(
    job: ImageJob, workspace: Workspace, is_allowed: Callable[[str], bool]
) -> dict[str, Any]:
    """Return the generation server's request for an image job, with full paths.

    The base is checked again and named: since the job was submitted, an adapter's file may have
    been replaced, and the owner may have changed the list of models.

    Raises:
        StudioError: an adapter or photo no longer exists, or the base may not be loaded.
    """
    model = _base_of(workspace, job.request, is_allowed)
    columns = []
    for column in job.request.columns:
        paths = [str(workspace.adapter(choice.path)) for choice in column.adapters]
        used = (
            replace(choice, path=path) for choice, path in zip(column.adapters, paths, strict=True)
        )
        columns.append(replace(column, adapters=tuple(used)))
    photos = tuple(str(workspace.own_file(photo)) for photo in job.request.references)
    request = replace(job.request, columns=tuple(columns), references=photos, model=model)
    folder = str(job.folder(workspace).absolute())
    return {"do": "draw", "id": job.id, "folder": folder, "request": request.as_json()}


def reset_job(workspace: Workspace, name: str, is_allowed: Callable[[str], bool]) -> ImageJob:
    """Return an unfinished job in the state "waiting", to be continued.

    Raises:
        StudioError: there is no job of that id, its base may not be loaded, or there is no room.
    """
    job = read_image_job(workspace, name)
    server_request(job, workspace, is_allowed)
    check_room(workspace, image_bytes(job.request, len(job.files)))
    return replace(job, state="waiting", error=None)


def write_image_job(workspace: Workspace, job: ImageJob) -> None:
    """Write an image job to its file."""
    values = {
        **{name: getattr(job, name) for name in (*_REQUIRED_KEYS, *_OPTIONAL_KEYS)},
        "request": job.request.as_json(),
        "files": {"-".join(map(str, place)): file for place, file in job.files.items()},
        "words": job.words,
        "differences": list(job.differences),
        "warnings": list(job.warnings),
    }
    folder = job.folder(workspace)
    folder.mkdir(exist_ok=True, mode=0o700)
    write_text(folder / JOB_FILE, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


_REQUIRED_KEYS = ("id", "state", "view", "created", "error", "waits_for", "scores")
_OPTIONAL_KEYS = ("judge", "unscored")
"""Keys that files of earlier versions lack; those were all judged by the embedded CLIP."""


def read_image_job(workspace: Workspace, name: str) -> ImageJob:
    """Read an image job from its file.

    Raises:
        StudioError: there is no such job, or its file is damaged.
    """
    file = workspace.pictures / check_name(name) / JOB_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        files = {_parse_index(key): file for key, file in values["files"].items()}
        if values["scores"]:
            values.setdefault("judge", EMBEDDED)
        return ImageJob(
            **{key: values[key] for key in _REQUIRED_KEYS},
            **{key: values.get(key) for key in _OPTIONAL_KEYS},
            request=parse_request(values["request"]),
            files=files,
            words={int(column): word for column, word in values["words"].items()},
            differences=tuple(values["differences"]),
            warnings=tuple(values.get("warnings", ())),  # Earlier versions stored none.
        )
    except FileNotFoundError as error:
        raise StudioError("there is no such image job here. It may have been deleted.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudioError(f"the job {name} is damaged. Delete it and generate again.") from error


def _parse_index(key: str) -> ImageIndex:
    column, prompt, seed = map(int, key.split("-"))
    return column, prompt, seed


def image_job_ids(workspace: Workspace) -> list[str]:
    """Return the ids of all image jobs, newest first."""
    found = workspace.pictures.glob(f"*/{JOB_FILE}")
    return sorted((file.parent.name for file in found), reverse=True)


def trash_image_job(workspace: Workspace, name: str) -> None:
    """Move an image job to the trash, which holds only the last one; see `restore_image_job`.

    Raises:
        StudioError: there is no such job.
    """
    folder = workspace.pictures / check_name(name)
    if not (folder / JOB_FILE).is_file():
        raise StudioError("there is no such image job here. It may have been deleted.")
    trash = workspace.pictures / TRASH
    if trash.is_dir():  # Only the last deletion can be undone.
        discard(trash)
    trash.mkdir(mode=0o700)
    folder.rename(trash / name)


def restore_image_job(workspace: Workspace, name: str) -> None:
    """Restore the image job that was deleted last.

    Raises:
        StudioError: another one was deleted last, or none.
    """
    kept = workspace.pictures / TRASH / check_name(name)
    if not kept.is_dir() or (workspace.pictures / name).exists():
        raise StudioError("this image job can no longer be restored.")
    kept.rename(workspace.pictures / name)


def _check_limits(request: ImageRequest, limits: LimitCheck) -> None:
    limit = IMAGE_LIMITS["pictures"][limits.is_owner]
    if request.count > limit:
        raise StudioError(
            f"expected at most {limit} images at once; got "
            f"{request.count}: {len(request.columns)} columns x {len(request.prompts)} prompts x "
            f"{len(request.seeds)} seeds. Choose fewer."
        )
    values = {
        "columns": len(request.columns),
        "steps": request.steps,
        "size": request.size,
        "photos to compare with": len(request.references),
        "adapters at once": max(len(column.adapters) for column in request.columns),
    }
    limits.check(IMAGE_LIMITS, values)
    texts = [*request.prompts, request.negative or ""]
    if max(map(len, texts)) > PROMPT_LIMIT:
        raise StudioError(
            f"expected at most {PROMPT_LIMIT} characters in a prompt; got {max(map(len, texts))}. "
            "Shorten it."
        )
    longest = max(len(column.label) for column in request.columns)
    if longest > LABEL_LIMIT:
        raise StudioError(
            f"expected at most {LABEL_LIMIT} characters in a column's label; got {longest}. "
            "Shorten it."
        )
