"""Uploads of a subject's photos, captions and masks.

A photo is stored under a number, byte for byte: a run records its digest, so the same command gives
the same training on the visitor's own copy. The camera's metadata, location included, therefore
stays in the file; only the visitor can download it, and nothing that the studio makes from it
(thumbnails, samples, adapters, published files) contains that metadata.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from nora_studio.app.server.companions import (
    Companion,
    attach_companion,
    attach_waiting,
    is_companion,
)
from nora_studio.app.server.photo_content import (
    MAX_PHOTO_BYTES,
    check_header,
    thumbnail_of,
    write_thumbnail,
)
from nora_studio.app.server.quota import check_size, reserve_room, shown_name
from nora_studio.app.server.stored_photos import (
    INCOMING,
    PhotoFacts,
    find_photo,
    locked_subject,
    mask_of,
    photos_of,
    read_photo_facts,
    write_photo_facts,
)
from nora_studio.app.server.stored_photos import LOCK as LOCK
from nora_studio.app.server.stored_photos import MAX_CAPTION as MAX_CAPTION
from nora_studio.app.server.stored_photos import StoredPhoto as StoredPhoto
from nora_studio.app.server.stored_photos import set_caption as set_caption
from nora_studio.app.server.stored_photos import subjects_of as subjects_of
from nora_studio.app.server.upload_notes import UploadNote, update_notes
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.photos.companions import PhotoNames
from nora_studio.photos.images import (
    CAPTION_SUFFIXES,
    PHOTO_SUFFIXES,
    SIDECAR_SUFFIXES,
    VIDEO_SUFFIXES,
    decode_photo,
)
from nora_studio.runs.atomic import discard

MAX_PHOTOS = 50
ACCEPTED_SUFFIXES = (*PHOTO_SUFFIXES, *SIDECAR_SUFFIXES)
"""Suffixes that may be uploaded together with photos; all others are left out."""


class Upload(NamedTuple):
    """An uploaded file, and the visitor's name for it."""

    file: Path
    name: str


@dataclass(frozen=True)
class UploadResult:
    """The result of an upload of several files."""

    photos: list[StoredPhoto]
    """The photos that were stored."""
    notes: list[UploadNote]
    """Notes about files that were refused, are waiting, or are used for several photos."""

    @property
    def problems(self) -> list[str]:
        """The text of each note."""
        return [note.text for note in self.notes]


def add_photos(
    workspace: Workspace, subject: str, files: Sequence[Upload], quota: int | None = None
) -> UploadResult:
    """Store uploads as a subject's photos, and captions and masks next to their photos.

    Captions and masks are matched to photos by the visitor's names, in this upload, an earlier or a
    later one. A problem with one file becomes a note, and the others are stored.

    Raises:
        StudioError: the subject's name is not allowed, or the disk cannot be written.
    """
    new_photos: set[str] = set()
    notes: list[UploadNote] = []
    named = [Upload(entry.file, shown_name(entry.name, "photo")) for entry in files]
    with locked_subject(workspace, subject) as folder:
        for entry in named:
            if is_companion(entry.name) or _is_sidecar(entry.name):
                continue
            try:
                new_photos.add(_add_photo(workspace, subject, folder, entry, quota))
            except StudioError as error:
                notes.append(UploadNote(entry.name, str(error)))
        handled = [entry.name for entry in named]
        for name, note in attach_waiting(folder, new_photos):
            handled.append(name)
            notes += [note] if note else []
        for entry in named:
            try:
                note = _add_companion(workspace, folder, entry, new_photos, quota)
            except StudioError as error:
                note = UploadNote(entry.name, str(error))
            notes += [note] if note else []
        update_notes(folder, notes, handled)
        photos = [photo for photo in photos_of(workspace, subject) if photo.name in new_photos]
    return UploadResult(photos, notes)


def _add_photo(
    workspace: Workspace, subject: str, folder: Path, entry: Upload, quota: int | None
) -> str:
    if len(photos_of(workspace, subject)) >= MAX_PHOTOS:
        raise StudioError(
            f"{entry.name} was left out: a subject may have at most {MAX_PHOTOS} photos. Remove "
            "one first."
        )
    number = max((int(Path(name).stem) for name in read_photo_facts(folder)), default=0) + 1
    with reserve_room(workspace, entry.file.stat().st_size, quota):
        return _store(folder, entry.file, entry.name, number)


def _add_companion(
    workspace: Workspace, folder: Path, entry: Upload, new_photos: set[str], quota: int | None
) -> UploadNote | None:
    """Store a caption or mask; return a note about any other file that is left out."""
    suffix = PurePath(entry.name).suffix.lower()
    if entry.name.startswith("._"):
        return None
    if is_companion(entry.name):
        with reserve_room(workspace, entry.file.stat().st_size, quota):
            return attach_companion(folder, Companion(entry.file, entry.name), new_photos)
    if suffix in VIDEO_SUFFIXES:
        originals = [fact.original for fact in read_photo_facts(folder).values()]
        if PhotoNames(originals).matching(PurePath(entry.name).stem):
            return None  # The video part of a live photo.
        return UploadNote(
            entry.name, f"{entry.name} is a video. Save single frames of it as photos."
        )
    if suffix == ".jsonl":
        return UploadNote(
            entry.name, f"{entry.name} is not read here. Add a text file for each photo instead."
        )
    return None


def _is_sidecar(name: str) -> bool:
    """Return whether a file's name marks it as another program's file next to photos."""
    suffix = PurePath(name).suffix.lower()
    known = suffix in SIDECAR_SUFFIXES and suffix not in CAPTION_SUFFIXES
    # macOS writes "._" files and .DS_Store on other disks.
    return known or name == ".DS_Store" or name.startswith("._")


def replace_photo(
    workspace: Workspace, subject: str, name: str, entry: Upload, quota: int | None = None
) -> StoredPhoto:
    """Replace a photo; its caption is kept, and its mask, which fitted the old photo, is deleted.

    Raises:
        StudioError: there is no such photo, or the new one is refused; then the old one is kept.
    """
    with locked_subject(workspace, subject) as folder:
        old = find_photo(workspace, subject, name)
        with reserve_room(workspace, entry.file.stat().st_size, quota):
            stored = _store(folder, entry.file, shown_name(entry.name, "photo"), int(old.file.stem))
        mask_of(old.file).unlink(missing_ok=True)
        if stored != old.name:
            old.file.unlink(missing_ok=True)
            facts = read_photo_facts(folder)
            facts.pop(old.name, None)
            write_photo_facts(folder, facts)
        return find_photo(workspace, subject, stored)


def remove_photo(workspace: Workspace, subject: str, name: str) -> None:
    """Delete a photo, its caption, its mask and its thumbnail.

    Raises:
        StudioError: there is no such photo.
    """
    with locked_subject(workspace, subject) as folder:
        photo = find_photo(workspace, subject, name)
        facts = read_photo_facts(folder)
        del facts[photo.name]
        write_photo_facts(folder, facts)
        caption, mask = photo.file.with_suffix(".txt"), mask_of(photo.file)
        for file in (photo.file, caption, mask, photo.thumbnail):
            file.unlink(missing_ok=True)


def remove_subject(workspace: Workspace, subject: str) -> None:
    """Delete all photos of a subject.

    Raises:
        StudioError: there is no such subject.
    """
    folder = workspace.photos / check_name(subject)
    if not folder.is_dir():
        raise StudioError(f"there is no subject {subject!r} here. It may have been deleted.")
    discard(folder)


def _store(folder: Path, source: Path, display_name: str, number: int) -> str:
    """Check a file by its content and store it in the folder under its number."""
    check_size(display_name, source.stat().st_size, MAX_PHOTO_BYTES)
    suffix = check_header(source, display_name)
    name = f"{number:02d}{suffix}"
    incoming = folder / f"{INCOMING}{name}"
    shutil.copyfile(source, incoming)
    try:
        photo = decode_photo(incoming)
        write_thumbnail(photo, thumbnail_of(folder / name))
    except StudioError as error:
        incoming.unlink(missing_ok=True)
        raise StudioError(str(error).replace(str(incoming), display_name)) from error
    facts = read_photo_facts(folder)
    facts[name] = PhotoFacts(display_name, photo.image.width, photo.image.height)
    incoming.replace(folder / name)
    write_photo_facts(folder, facts)
    return name
