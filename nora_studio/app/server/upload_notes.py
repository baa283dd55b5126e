"""Notes about uploaded files, which stay until the visitor dismisses them."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nora_studio.app.server.stored_photos import locked_subject
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.runs.atomic import write_text

NOTES = ".upload-notes.json"
"""File next to the photos, which is never served."""
MAX_NOTES = 200
Kind = Literal["refused", "waiting", "shared"]


@dataclass(frozen=True)
class UploadNote:
    """A note about one uploaded file."""

    name: str
    """The visitor's name for the file."""
    text: str
    """A sentence that names the file, with the remedy."""
    kind: Kind = "refused"
    """refused: left out; waiting: kept until its photo comes; shared: used for several photos."""


def read_notes(folder: Path) -> list[UploadNote]:
    """Return the notes of a subject's folder, oldest first; damaged ones are dropped."""
    try:
        values = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        return [UploadNote(**one) for one in values]
    except (OSError, ValueError, TypeError):
        return []


def update_notes(folder: Path, notes: Iterable[UploadNote], handled: Iterable[str]) -> None:
    """Add the notes of an upload, and remove earlier ones of these and of handled files."""
    notes, gone = list(notes), set(handled)
    gone |= {note.name for note in notes}
    kept = [note for note in read_notes(folder) if note.name not in gone]
    values = [asdict(note) for note in [*kept, *notes][-MAX_NOTES:]]
    if values:
        write_text(folder / NOTES, json.dumps(values, ensure_ascii=False, indent=1) + "\n")
    else:
        (folder / NOTES).unlink(missing_ok=True)


def upload_notes(workspace: Workspace, subject: str) -> list[UploadNote]:
    """Return the notes about a subject's uploads, oldest first."""
    return read_notes(workspace.photos / check_name(subject))


def dismiss_notes(workspace: Workspace, subject: str) -> None:
    """Remove all notes except those of files that wait for their photo."""
    with locked_subject(workspace, subject) as folder:
        notes = read_notes(folder)
        update_notes(folder, [], [note.name for note in notes if note.kind != "waiting"])
