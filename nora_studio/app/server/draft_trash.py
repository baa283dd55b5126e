"""What a visitor took out of the draft, kept so that it can be brought back.

It lies in `photos/.trash`, an entry each, the latest last; it goes for good with the start of a
training, when newer entries push it out, or when its room is needed.
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
from nora_studio.app.server.uploads import Incoming, Received, add_photos, photos_of, remove_photo
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

DRAFT = "new"
"""The folder of the draft's photos; a start copies them under the training's own name."""
EXAMPLE = ".example"
"""In the draft: the shipped subject whose photos it holds."""
TRASH, LOCK = ".trash", ".draft.lock"
KEPT = 20


@contextlib.contextmanager
def changing_draft(workspace: Workspace) -> Iterator[Path]:
    """Hold the draft for one change at a time, from whichever tab it comes; gives its folder."""
    with FileLock(workspace.photos / LOCK, timeout=60):
        yield workspace.photos / DRAFT


def example_of(workspace: Workspace) -> str:
    """The shipped subject that the draft's photos are of; empty: they are the visitor's own."""
    try:
        return (workspace.photos / DRAFT / EXAMPLE).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def put_draft_aside(workspace: Workspace) -> None:
    """Move all of the draft's photos into the trash. The caller holds the draft."""
    folder = workspace.photos / DRAFT
    if photos_of(workspace, DRAFT):
        folder.rename(_new_entry(workspace) / DRAFT)
    elif folder.is_dir():
        shutil.rmtree(folder)


def put_photo_aside(workspace: Workspace, name: str) -> None:
    """Move one of the draft's photos, with its caption and mask, into the trash.

    Raises:
        StudioError: there is no such photo.
    """
    with changing_draft(workspace) as folder:
        photo = next((one for one in photos_of(workspace, DRAFT) if one.name == name), None)
        if photo is not None:
            entry = _new_entry(workspace)
            shutil.copyfile(photo.file, entry / f"photo{photo.file.suffix}")
            if photo.has_mask:
                shutil.copyfile(mask_of(photo.file), mask_of(entry / "photo"))
            (entry / "name").write_text(photo.original, encoding="utf-8")
            (entry / "caption").write_text(photo.caption, encoding="utf-8")
        remove_photo(workspace, DRAFT, name)
        if not photos_of(workspace, DRAFT):  # Whatever comes next is no example's.
            (folder / EXAMPLE).unlink(missing_ok=True)


def last_put_aside(workspace: Workspace) -> str:
    """What `bring_back` would bring, in words: "mug.jpg", "21 photos"; empty: nothing."""
    entries = _entries(workspace)
    if not entries:
        return ""
    if (entries[-1] / DRAFT).is_dir():
        count = len(json.loads(_text(entries[-1] / DRAFT / NAMES) or "{}"))
        return f"{count} photo{'s' * (count != 1)}"
    return _text(entries[-1] / "name") or "a photo"


def bring_back(workspace: Workspace) -> None:
    """Undo what was put aside last; photos that are in its place then are put aside in turn.

    Raises:
        StudioError: there is nothing, or no room for it.
    """
    with changing_draft(workspace) as folder:
        entries = _entries(workspace)
        if not entries:
            raise StudioError("there is nothing left to bring back.")
        entry = entries[-1]
        if (entry / DRAFT).is_dir():
            put_draft_aside(workspace)
            (entry / DRAFT).rename(folder)
        else:
            _bring_photo_back(workspace, entry)
        shutil.rmtree(entry)


def _bring_photo_back(workspace: Workspace, entry: Path) -> None:
    photo = next(file for file in entry.iterdir() if file.stem == "photo")
    name, caption = _text(entry / "name") or photo.name, _text(entry / "caption")
    files = [Incoming(photo, name)]
    if caption:
        files.append(Incoming(entry / "caption", f"{Path(name).stem}.txt"))
    if mask_of(photo).is_file():
        files.append(Incoming(mask_of(photo), mask_of(Path(name)).name))
    received = add_photos(workspace, DRAFT, files)
    if not received.photos:
        raise StudioError(" ".join(map(str, received.problems)))


def add_to_draft(workspace: Workspace, files: Sequence[Incoming]) -> Received:
    """Store uploads in the draft. An example's photos make room: they are another subject's.

    Raises:
        StudioError: as `add_photos`.
    """
    with changing_draft(workspace):
        if example_of(workspace):
            put_draft_aside(workspace)
        try:
            check_room(workspace, sum(entry.file.stat().st_size for entry in files))
        except StudioError:
            forget_put_aside(workspace)  # What was thrown away never stands in the way.
        return add_photos(workspace, DRAFT, files)


def forget_put_aside(workspace: Workspace) -> None:
    """Delete for good what could be brought back."""
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
