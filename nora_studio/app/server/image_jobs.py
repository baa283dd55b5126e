"""A drawing in a visitor's folder, `pictures/<id>/`: what was asked, and how far it is."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.app.server.drawing_requests import DrawingRequest, parse_request
from nora_studio.app.server.limits import DRAWING, Limits
from nora_studio.app.server.quota import check_room
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.runs.atomic import discard, write_text

SHEET, TRASH = "drawing.json", ".trash"
PROMPT_LIMIT, LABEL_LIMIT = 500, 80
"""Characters."""
USUAL_SIDE = 1536
"""For the room that is checked, where no size is given."""

State = Literal["waiting", "drawing", "scoring", "finished", "cancelled", "failed", "interrupted"]
UNDER_WAY = ("waiting", "drawing", "scoring")
Place = tuple[int, int, int]
"""Numbers of a picture's column, prompt and seed."""


@dataclass(frozen=True)
class Sheet:
    """One drawing as it stands."""

    id: str
    state: State
    request: DrawingRequest
    """Adapters and photos by their paths in the workspace."""
    view: dict[str, Any]
    """What the page wants to remember of it; not read here."""
    files: dict[Place, str]
    """Pictures that are there, by their paths in the drawing's folder."""
    words: dict[int, str]
    """Column -> what it read for "[V]"."""
    created: float
    """Seconds since 1970."""
    error: str | None = None
    """One sentence on why it failed."""
    waits_for: str | None = None
    """One sentence on why it has not begun."""
    scores: dict[str, dict[str, list[float]]] | None = None
    """Score -> column's label -> one value a picture, prompts in the outer loop."""
    differences: tuple[dict[str, Any], ...] = ()
    """Findings (`compare.Finding`), paired, with intervals."""
    judge: str | None = None
    """Name of the CLIP that gave the scores."""
    unscored: str | None = None
    """One sentence on why scores that were asked for are not given."""
    warnings: tuple[str, ...] = ()
    """A sentence for each prompt of which something is not read as it may be meant."""

    @property
    def awaits_scores(self) -> bool:
        """Whether scores follow when all pictures are there."""
        return self.request.score and self.unscored is None

    @property
    def is_under_way(self) -> bool:
        return self.state in UNDER_WAY

    def folder(self, workspace: Workspace) -> Path:
        return workspace.pictures / self.id

    def file(self, workspace: Workspace, place: Place) -> Path | None:
        """A picture; None while it is not there."""
        name = self.files.get(place)
        file = self.folder(workspace) / name if name else None
        return file if file is not None and file.is_file() else None


def new_sheet(
    workspace: Workspace,
    asked: Any,
    view: Mapping[str, Any] | None = None,
    is_allowed: Callable[[str], bool] = lambda _: True,
    is_owner: bool = False,
) -> Sheet:
    """A drawing that nobody has begun, checked against the limits and the visitor's own folder.

    Args:
        is_allowed: Whether visitors may have that base (an adapter names one too) or judge loaded.
        is_owner: Whose ceilings hold (`limits`).

    Raises:
        StudioError: the request is malformed, too large, or names what is not the visitor's.
    """
    request = parse_request(asked)
    _check_limits(request, Limits(is_owner))
    request = replace(request, model=_base_of(workspace, request, is_allowed))
    check_room(workspace, picture_bytes(request))
    for photo in request.references:
        workspace.own(photo)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    return Sheet(name, "waiting", request, dict(view or {}), {}, {}, round(time.time(), 2))


def _base_of(
    workspace: Workspace, request: DrawingRequest, is_allowed: Callable[[str], bool]
) -> str:
    """The base that a request is drawn on: the one it names, else the first adapter's own.

    Raises:
        StudioError: it or the judge may not be loaded, nobody names one, or an adapter is damaged.
    """
    chosen = [choice for column in request.columns for choice in column.adapters]
    try:
        cards = [open_adapter(workspace.adapter(choice.path)).card for choice in chosen]
    except StudioError as error:
        raise StudioError(without_folder(workspace, str(error))) from error
    model = request.model or next((card.model for card in cards if card.model), "")
    if not model and cards:
        raise StudioError(
            "these adapters do not name their base. Choose adapters that do, or name one."
        )
    for kind, name in (("base", model), ("judge", request.clip or "")):
        if name and not is_allowed(name):
            raise StudioError(
                f"the {kind} {name[:80]!r} is not among the models that may be loaded here. Choose "
                "another one."
            )
        workspace.check_model(name)
    return model or EMBEDDED


def picture_bytes(request: DrawingRequest, drawn: int = 0) -> int:
    """What a drawing's pictures take at most, but for those that are drawn already."""
    return max(0, request.count - drawn) * 3 * (request.size or USUAL_SIDE) ** 2


def without_folder(workspace: Workspace, message: str) -> str:
    """A message for the visitor: where the server keeps their files is nothing to them."""
    for folder in (workspace.folder, workspace.folder.resolve()):
        message = message.replace(f"{folder}/", "")
    return message


def for_the_server(
    sheet: Sheet, workspace: Workspace, is_allowed: Callable[[str], bool]
) -> dict[str, Any]:
    """What the drawing server is asked for a drawing, with full paths.

    The base is looked at once more and named: since the drawing was asked for, another file may
    have taken an adapter's place, and the owner may have changed the list.

    Raises:
        StudioError: an adapter or photo is there no longer, or the base may not be loaded.
    """
    model = _base_of(workspace, sheet.request, is_allowed)
    columns = []
    for column in sheet.request.columns:
        paths = [str(workspace.adapter(choice.path)) for choice in column.adapters]
        used = (replace(choice, path=path) for choice, path in zip(column.adapters, paths))
        columns.append(replace(column, adapters=tuple(used)))
    photos = tuple(str(workspace.own(photo)) for photo in sheet.request.references)
    request = replace(sheet.request, columns=tuple(columns), references=photos, model=model)
    folder = str(sheet.folder(workspace).absolute())
    return {"do": "draw", "id": sheet.id, "folder": folder, "request": request.as_json()}


def waiting_again(workspace: Workspace, name: str, is_allowed: Callable[[str], bool]) -> Sheet:
    """A drawing of which pictures are missing, as it waits to be gone on with.

    Raises:
        StudioError: there is none of that id, its base may not be loaded, or there is no room.
    """
    sheet = read_sheet(workspace, name)
    for_the_server(sheet, workspace, is_allowed)
    check_room(workspace, picture_bytes(sheet.request, len(sheet.files)))
    return replace(sheet, state="waiting", error=None)


def write_sheet(workspace: Workspace, sheet: Sheet) -> None:
    """Keep how a drawing stands."""
    values = {
        **{name: getattr(sheet, name) for name in (*_PLAIN, *_LATER)},
        "request": sheet.request.as_json(),
        "files": {"-".join(map(str, place)): file for place, file in sheet.files.items()},
        "words": sheet.words,
        "differences": list(sheet.differences),
        "warnings": list(sheet.warnings),
    }
    folder = sheet.folder(workspace)
    folder.mkdir(exist_ok=True, mode=0o700)
    write_text(folder / SHEET, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


_PLAIN = ("id", "state", "view", "created", "error", "waits_for", "scores")
_LATER = ("judge", "unscored")
"""What drawings of earlier versions do not tell; they were all judged by the embedded CLIP."""


def read_sheet(workspace: Workspace, name: str) -> Sheet:
    """A drawing as it was last kept.

    Raises:
        StudioError: there is none, or it cannot be read.
    """
    file = workspace.pictures / check_name(name) / SHEET
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        files = {_place(key): file for key, file in values["files"].items()}
        if values["scores"]:
            values.setdefault("judge", EMBEDDED)
        return Sheet(
            **{key: values[key] for key in _PLAIN},
            **{key: values.get(key) for key in _LATER},
            request=parse_request(values["request"]),
            files=files,
            words={int(column): word for column, word in values["words"].items()},
            differences=tuple(values["differences"]),
            warnings=tuple(values.get("warnings", ())),  # Earlier versions kept none.
        )
    except FileNotFoundError as error:
        raise StudioError("there is no such drawing here. It may have been deleted.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudioError(f"the drawing {name} is damaged: delete it and draw again.") from error


def _place(key: str) -> Place:
    column, prompt, seed = map(int, key.split("-"))
    return column, prompt, seed


def sheet_names(workspace: Workspace) -> list[str]:
    """Every drawing, the newest first."""
    found = workspace.pictures.glob(f"*/{SHEET}")
    return sorted((file.parent.name for file in found), reverse=True)


def discard_sheet(workspace: Workspace, name: str) -> None:
    """Delete a drawing with its pictures; `restore_sheet` undoes the last of these.

    Raises:
        StudioError: there is none.
    """
    folder = workspace.pictures / check_name(name)
    if not (folder / SHEET).is_file():
        raise StudioError("there is no such drawing here. It may have been deleted.")
    trash = workspace.pictures / TRASH
    if trash.is_dir():  # An undo is for a slip; what was deleted before makes room.
        discard(trash)
    trash.mkdir(mode=0o700)
    folder.rename(trash / name)


def restore_sheet(workspace: Workspace, name: str) -> None:
    """Bring back the drawing that was deleted last.

    Raises:
        StudioError: it is another one, or there is none.
    """
    kept = workspace.pictures / TRASH / check_name(name)
    if not kept.is_dir() or (workspace.pictures / name).exists():
        raise StudioError("this drawing can no longer be brought back.")
    kept.rename(workspace.pictures / name)


def _check_limits(request: DrawingRequest, limits: Limits) -> None:
    most = DRAWING["pictures"][limits.is_owner]
    if request.count > most:
        raise StudioError(
            f"expected at most {most} pictures in a drawing; got "
            f"{request.count}: {len(request.columns)} columns x {len(request.prompts)} prompts x "
            f"{len(request.seeds)} seeds. Choose fewer."
        )
    asked = {
        "columns": len(request.columns),
        "steps": request.steps,
        "size": request.size,
        "photos to compare with": len(request.references),
        "adapters at once": max(len(column.adapters) for column in request.columns),
    }
    limits.check(DRAWING, asked)
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
