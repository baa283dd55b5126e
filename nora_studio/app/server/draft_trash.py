"""Photos that a visitor removed from the draft, kept so that they can be restored.

They are in `photos/.trash`, one entry per removal, the latest last. An entry is deleted when a
training starts, when newer entries replace it, or when its disk space is needed.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock

from nora_studio.app.server.quota import check_room
from nora_studio.app.server.stored_photos import NAMES, mask_of
from nora_studio.app.server.uploads import Upload, UploadResult, add_photos, photos_of, remove_photo
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

DRAFT = "new"
"""The folder of the draft's photos; starting a training copies them under its name."""
EXAMPLE = ".example"
"""File in the draft's folder with the name of the shipped subject that it shows."""
TRASH, LOCK = ".trash", ".draft.lock"
KEPT = 20


@contextlib.contextmanager
def locked_draft(workspace: Workspace) -> Iterator[Path]:
    """Lock the draft for one change at a time, across browser tabs; yields its folder."""
    with FileLock(workspace.photos / LOCK, timeout=60):
        yield workspace.photos / DRAFT


def example_of(workspace: Workspace) -> str:
    """Return the shipped subject that the draft's photos show; empty: they are the visitor's."""
    try:
        return (workspace.photos / DRAFT / EXAMPLE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def trash_draft(workspace: Workspace) -> None:
    """Move all of the draft's photos into the trash. The caller holds the lock."""
    folder = workspace.photos / DRAFT
    if photos_of(workspace, DRAFT):
        folder.rename(_new_entry(workspace) / DRAFT)
    elif folder.is_dir():
        shutil.rmtree(folder)


def trash_photo(workspace: Workspace, name: str) -> None:
    """Move one of the draft's photos, with its caption and mask, into the trash.

    Raises:
        StudioError: there is no such photo.
    """
    with locked_draft(workspace) as folder:
        photo = next((one for one in photos_of(workspace, DRAFT) if one.name == name), None)
        if photo is not None:
            entry = _new_entry(workspace)
            shutil.copyfile(photo.file, entry / f"photo{photo.file.suffix}")
            if photo.has_mask:
                shutil.copyfile(mask_of(photo.file), mask_of(entry / "photo"))
            (entry / "name").write_text(photo.original, encoding="utf-8")
            (entry / "caption").write_text(photo.caption, encoding="utf-8")
        remove_photo(workspace, DRAFT, name)
        if not photos_of(workspace, DRAFT):  # Photos added next are not the example's.
            (folder / EXAMPLE).unlink(missing_ok=True)


def last_trashed(workspace: Workspace) -> str:
    """Describe what `restore_last` would restore: "mug.jpg", "21 photos"; empty: nothing."""
    entries = _entries(workspace)
    if not entries:
        return ""
    if (entries[-1] / DRAFT).is_dir():
        count = len(json.loads(_text(entries[-1] / DRAFT / NAMES) or "{}"))
        return f"{count} photo{'s' * (count != 1)}"
    return _text(entries[-1] / "name") or "a photo"


def restore_last(workspace: Workspace) -> None:
    """Restore the latest entry; if it is a whole draft, the current one goes to the trash.

    Raises:
        StudioError: the trash is empty, or there is no room.
    """
    with locked_draft(workspace) as folder:
        entries = _entries(workspace)
        if not entries:
            raise StudioError("there is nothing left to restore.")
        entry = entries[-1]
        if (entry / DRAFT).is_dir():
            trash_draft(workspace)
            (entry / DRAFT).rename(folder)
        else:
            _restore_photo(workspace, entry)
        shutil.rmtree(entry)


def _restore_photo(workspace: Workspace, entry: Path) -> None:
    photo = next(file for file in entry.iterdir() if file.stem == "photo")
    name, caption = _text(entry / "name") or photo.name, _text(entry / "caption")
    files = [Upload(photo, name)]
    if caption:
        files.append(Upload(entry / "caption", f"{Path(name).stem}.txt"))
    if mask_of(photo).is_file():
        files.append(Upload(mask_of(photo), mask_of(Path(name)).name))
    received = add_photos(workspace, DRAFT, files)
    if not received.photos:
        raise StudioError(" ".join(map(str, received.problems)))


def add_to_draft(workspace: Workspace, files: Sequence[Upload]) -> UploadResult:
    """Store uploads in the draft; an example's photos are removed, since they show another subject.

    Raises:
        StudioError: for the same reasons as `add_photos`.
    """
    with locked_draft(workspace):
        if example_of(workspace):
            trash_draft(workspace)
        try:
            check_room(workspace, sum(entry.file.stat().st_size for entry in files))
        except StudioError:
            empty_draft_trash(workspace)  # The trash must not keep new photos out.
        return add_photos(workspace, DRAFT, files)


def empty_draft_trash(workspace: Workspace) -> None:
    """Delete the draft's trash for good."""
    shutil.rmtree(workspace.photos / TRASH, ignore_errors=True)


def _entries(workspace: Workspace) -> list[Path]:
    trash = workspace.photos / TRASH
    return sorted(trash.iterdir()) if trash.is_dir() else []


def _new_entry(workspace: Workspace) -> Path:
    for old in _entries(workspace)[: -KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)
    entry = workspace.photos / TRASH / f"{time.time_ns():020d}"
    entry.mkdir(parents=True, mode=0o700)
    return entry


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
