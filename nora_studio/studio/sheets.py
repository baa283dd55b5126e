"""A drawing in a visitor's folder, `pictures/<id>/`: what was asked, and how far it is."""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nora_studio.atomic import discard, write_text
from nora_studio.cards import read_card
from nora_studio.drawing_requests import DrawingRequest, parse_request
from nora_studio.errors import StudioError
from nora_studio.studio.quota import check_room
from nora_studio.studio.workspace import Workspace, check_name

SHEET = "drawing.json"
PICTURES_LIMIT = 200
SIDE_LIMIT = 1536
STEPS_LIMIT = 150
PROMPT_LIMIT = 500
"""Letters."""
COLUMNS_LIMIT = 25
TOGETHER_LIMIT = 6
"""Adapters on at once."""
REFERENCES_LIMIT = 50

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
    warnings: tuple[str, ...] = ()
    """A sentence for each prompt of which something is not read as it may be meant."""

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
) -> Sheet:
    """A drawing that nobody has begun, checked against the limits and the visitor's own folder.

    Args:
        is_allowed: Whether visitors may have a base of that name loaded; an adapter names one too.

    Raises:
        StudioError: the request is malformed, too large, or names what is not the visitor's.
    """
    request = parse_request(asked)
    _check_limits(request)
    chosen = [choice for column in request.columns for choice in column.adapters]
    try:
        cards = [read_card(own_adapter(workspace, choice.path)) for choice in chosen]
    except StudioError as error:
        raise StudioError(without_folder(workspace, str(error))) from error
    model = request.model or next((card.model for card in cards if card.model), None)
    if model is not None and not is_allowed(model):
        raise StudioError(f"the base {model[:80]!r} is not among those that may be used here.")
    request = replace(request, model=model)
    check_room(workspace, request.count * 3 * (request.size or SIDE_LIMIT) ** 2)
    for photo in request.references:
        workspace.own(photo)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    return Sheet(name, "waiting", request, dict(view or {}), {}, {}, round(time.time(), 2))


def own_adapter(workspace: Workspace, relative: str) -> Path:
    """A run, checkpoint or adapter file of the visitor's by its path in the workspace.

    Raises:
        StudioError: it would lie elsewhere, links followed, or is not there.
    """
    path = (workspace.folder / relative).resolve()
    homes = [folder.resolve() for folder in (workspace.runs, workspace.adapters)]
    if not any(path.is_relative_to(home) and path != home for home in homes) or not path.exists():
        raise StudioError(f"there is no adapter {relative[:200]!r} here. It may have been deleted.")
    return path


def without_folder(workspace: Workspace, message: str) -> str:
    """A message for the visitor: where the server keeps their files is nothing to them."""
    for folder in (workspace.folder, workspace.folder.resolve()):
        message = message.replace(f"{folder}/", "")
    return message


def for_the_server(sheet: Sheet, workspace: Workspace) -> dict[str, Any]:
    """What the drawing server is asked for a drawing, with full paths.

    Raises:
        StudioError: an adapter or photo is there no longer.
    """
    columns = []
    for column in sheet.request.columns:
        paths = [str(own_adapter(workspace, choice.path)) for choice in column.adapters]
        used = (replace(choice, path=path) for choice, path in zip(column.adapters, paths))
        columns.append(replace(column, adapters=tuple(used)))
    photos = tuple(str(workspace.own(photo)) for photo in sheet.request.references)
    request = replace(sheet.request, columns=tuple(columns), references=photos)
    folder = str(sheet.folder(workspace).absolute())
    return {"do": "draw", "id": sheet.id, "folder": folder, "request": request.as_json()}


def write_sheet(workspace: Workspace, sheet: Sheet) -> None:
    """Keep how a drawing stands."""
    values = {
        **{name: getattr(sheet, name) for name in _PLAIN},
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


def read_sheet(workspace: Workspace, name: str) -> Sheet:
    """A drawing as it was last kept.

    Raises:
        StudioError: there is none, or it cannot be read.
    """
    file = workspace.pictures / check_name(name) / SHEET
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        files = {_place(key): file for key, file in values["files"].items()}
        return Sheet(
            **{key: values[key] for key in _PLAIN},
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


@dataclass(eq=False)
class LiveSheet:
    """A drawing that is waiting or at work."""

    workspace: Workspace
    sheet: Sheet
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def visitor(self) -> Path:
        """Whose it is."""
        return self.workspace.folder

    def begin(self) -> None:
        """Keep it for the first time."""
        write_sheet(self.workspace, self.sheet)

    def change(self, **values: Any) -> None:
        """Say how it stands now, and keep that."""
        self.sheet = replace(self.sheet, **values)
        # A full disk is told by the pictures, which cannot be written either.
        with contextlib.suppress(OSError):
            write_sheet(self.workspace, self.sheet)

    def warn(self, lines: Sequence[str]) -> None:
        """Keep warnings of the drawing server, each once."""
        told = [line.removeprefix("warning: ") for line in lines]
        told = [line[:1].upper() + line[1:] for line in told]
        kept = tuple(dict.fromkeys((*self.sheet.warnings, *told)))
        if kept != self.sheet.warnings:
            self.change(warnings=kept)


def sheet_names(workspace: Workspace) -> list[str]:
    """Every drawing, the newest first."""
    found = workspace.pictures.glob(f"*/{SHEET}")
    return sorted((file.parent.name for file in found), reverse=True)


def discard_sheet(workspace: Workspace, name: str) -> None:
    """Delete a drawing with its pictures.

    Raises:
        StudioError: there is none.
    """
    folder = workspace.pictures / check_name(name)
    if not (folder / SHEET).is_file():
        raise StudioError("there is no such drawing here. It may have been deleted.")
    discard(folder)


def _check_limits(request: DrawingRequest) -> None:
    if request.count > PICTURES_LIMIT:
        raise StudioError(
            f"at most {PICTURES_LIMIT} pictures are drawn at a time; this would be "
            f"{request.count}: {len(request.columns)} columns x {len(request.prompts)} prompts x "
            f"{len(request.seeds)} seeds. Take fewer."
        )
    sizes = {
        "columns": (len(request.columns), COLUMNS_LIMIT),
        "steps": (request.steps, STEPS_LIMIT),
        "size": (request.size or 0, SIDE_LIMIT),
        "photos to compare with": (len(request.references), REFERENCES_LIMIT),
        "adapters at once": (max(len(c.adapters) for c in request.columns), TOGETHER_LIMIT),
    }
    for name, (value, limit) in sizes.items():
        if value > limit:
            raise StudioError(f"{name}: at most {limit}; got {value}.")
    texts = [*request.prompts, request.negative or ""]
    if max(map(len, texts)) > PROMPT_LIMIT:
        raise StudioError(
            f"a prompt has at most {PROMPT_LIMIT} letters; got {max(map(len, texts))}. Shorten it."
        )
    if any(len(column.label) > 80 for column in request.columns):
        raise StudioError("a column's label has at most 80 letters.")
