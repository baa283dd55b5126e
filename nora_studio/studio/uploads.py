"""A subject's photos as a visitor uploads them, with captions, thumbnails and their old names.

A photo is stored under a number of its own, in the bytes it came in: a run records its digest, and
the same command trains the same on the visitor's own copy. So whatever a camera wrote into it,
the place included, stays in it; only the visitor is ever given the file, and nothing that the
studio makes of it (thumbnails, samples, adapters, what is published) has any of that.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from nora_studio.atomic import discard, write_text
from nora_studio.data.captions import PLACEHOLDER
from nora_studio.data.images import decode_photo
from nora_studio.errors import StudioError
from nora_studio.storage import START_AGAIN, writing
from nora_studio.studio.file_route import THUMBNAILS
from nora_studio.studio.photo_content import (
    MOST_PHOTO_BYTES,
    check_header,
    thumbnail_of,
    write_thumbnail,
)
from nora_studio.studio.quota import adding, check_size, shown_name
from nora_studio.studio.workspace import Workspace, check_name

MOST_PHOTOS = 50
MOST_CAPTION = 500
"""Characters."""
MOST_CAPTION_BYTES = 8 * 1024
NAMES = "names.json"
LOCK = ".lock"
_INCOMING = ".incoming-"


class Incoming(NamedTuple):
    """An upload: where it lies, and what the visitor calls it."""

    file: Path
    name: str


@dataclass(frozen=True)
class StoredPhoto:
    """One of a subject's photos."""

    file: Path
    original: str
    """What the visitor called it."""
    caption: str
    """Empty: none."""
    width: int
    """In pixels, upright."""
    height: int
    thumbnail: Path

    @property
    def name(self) -> str:
        """By which it is removed, replaced and captioned: "03.jpg"."""
        return self.file.name


@dataclass(frozen=True)
class Received:
    """What came of an upload of several files."""

    photos: list[StoredPhoto]
    """Those that were stored."""
    problems: list[str]
    """A sentence for each that was not."""


@dataclass(frozen=True)
class _Facts:
    original: str
    width: int
    height: int


def subjects_of(workspace: Workspace) -> list[str]:
    """Names of the subjects that a visitor has photos of."""
    found = (path for path in workspace.photos.iterdir() if path.name[0] != ".")
    return sorted(path.name for path in found if _read_facts(path))


def photos_of(workspace: Workspace, subject: str) -> list[StoredPhoto]:
    """A subject's photos in the order they came; none where it is not known."""
    folder = workspace.photos / check_name(subject)
    facts = _read_facts(folder)
    found = []
    for name in sorted(facts, key=lambda name: int(Path(name).stem)):
        file, fact = folder / name, facts[name]
        if file.is_file():
            thumbnail = thumbnail_of(file)
            caption = _read_caption(file)
            found.append(
                StoredPhoto(file, fact.original, caption, fact.width, fact.height, thumbnail)
            )
    return found


def add_photos(
    workspace: Workspace, subject: str, files: Sequence[Incoming], quota: int | None = None
) -> Received:
    """Store uploads as a subject's photos; a text file among them is the caption of its namesake.

    Whatever is wrong with one file is told, and the others are stored.

    Raises:
        StudioError: the subject's name is none, or the disk refuses.
    """
    names: set[str] = set()
    problems: list[str] = []
    texts = [entry for entry in files if entry.name.lower().endswith(".txt")]
    with _changing(workspace, subject) as folder:
        stems: dict[str, str] = {}
        for entry in files:
            if entry in texts:
                continue
            shown = shown_name(entry.name, "photo")
            try:
                if len(photos_of(workspace, subject)) >= MOST_PHOTOS:
                    raise StudioError(
                        f"{shown} was left out: a subject has at most {MOST_PHOTOS} photos."
                    )
                number = max((int(Path(name).stem) for name in _read_facts(folder)), default=0) + 1
                with adding(workspace, entry.file.stat().st_size, quota):
                    stored = _store(folder, entry.file, shown, number)
                stems[Path(shown).stem.lower()] = stored
                names.add(stored)
            except StudioError as error:
                problems.append(str(error))
        for entry in texts:
            problems += _add_caption(folder, entry, stems)
        photos = [photo for photo in photos_of(workspace, subject) if photo.name in names]
    return Received(photos, problems)


def replace_photo(
    workspace: Workspace, subject: str, name: str, entry: Incoming, quota: int | None = None
) -> StoredPhoto:
    """Put another photo in the place of one; its caption stays.

    Raises:
        StudioError: there is no such photo, or the new one will not do; then the old one stays.
    """
    with _changing(workspace, subject) as folder:
        old = _find(workspace, subject, name)
        with adding(workspace, entry.file.stat().st_size, quota):
            stored = _store(folder, entry.file, shown_name(entry.name, "photo"), int(old.file.stem))
        if stored != old.name:
            old.file.unlink(missing_ok=True)
            facts = _read_facts(folder)
            facts.pop(old.name, None)
            _write_facts(folder, facts)
        return _find(workspace, subject, stored)


def remove_photo(workspace: Workspace, subject: str, name: str) -> None:
    """Delete a photo, its caption and its thumbnail.

    Raises:
        StudioError: there is no such photo.
    """
    with _changing(workspace, subject) as folder:
        photo = _find(workspace, subject, name)
        facts = _read_facts(folder)
        del facts[photo.name]
        _write_facts(folder, facts)
        mask = photo.file.with_suffix(".mask.png")
        for file in (photo.file, photo.file.with_suffix(".txt"), mask, photo.thumbnail):
            file.unlink(missing_ok=True)


def remove_subject(workspace: Workspace, subject: str) -> None:
    """Delete all photos of a subject.

    Raises:
        StudioError: there is no such subject.
    """
    folder = workspace.photos / check_name(subject)
    if not folder.is_dir():
        raise StudioError(f"there is no subject {subject!r} here.")
    discard(folder)


def set_caption(workspace: Workspace, subject: str, name: str, text: str) -> str:
    """Write what else is in a photo; an empty text takes the caption away. Gives back what stands.

    Raises:
        StudioError: there is no such photo, or the text lacks [V] or is too long.
    """
    with _changing(workspace, subject):
        photo = _find(workspace, subject, name)
        caption = _checked_caption(text)
        file = photo.file.with_suffix(".txt")
        if caption:
            write_text(file, caption + "\n")
        else:
            file.unlink(missing_ok=True)
    return caption


@contextlib.contextmanager
def _changing(workspace: Workspace, subject: str) -> Iterator[Path]:
    """The subject's folder, for one request at a time; what an earlier one left half done goes."""
    folder = workspace.photos / check_name(subject)
    with writing("photos", Path(subject), START_AGAIN):
        (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(folder / LOCK, timeout=60):
            for left in folder.glob(f"{_INCOMING}*"):
                left.unlink(missing_ok=True)
            yield folder


def _store(folder: Path, source: Path, shown: str, number: int) -> str:
    """Check a file by its content and put it into the folder under its number."""
    check_size(shown, source.stat().st_size, MOST_PHOTO_BYTES)
    suffix = check_header(source, shown)
    name = f"{number:02d}{suffix}"
    incoming = folder / f"{_INCOMING}{name}"
    shutil.copyfile(source, incoming)
    try:
        photo = decode_photo(incoming)
        write_thumbnail(photo, thumbnail_of(folder / name))
    except StudioError as error:
        incoming.unlink(missing_ok=True)
        raise StudioError(str(error).replace(str(incoming), shown)) from error
    facts = _read_facts(folder)
    facts[name] = _Facts(shown, photo.image.width, photo.image.height)
    incoming.replace(folder / name)
    _write_facts(folder, facts)
    return name


def _find(workspace: Workspace, subject: str, name: str) -> StoredPhoto:
    for photo in photos_of(workspace, subject):
        if photo.name == name:
            return photo
    raise StudioError(f"there is no photo {str(name)[:80]!r} of {subject} here.")


def _read_facts(folder: Path) -> dict[str, _Facts]:
    try:
        values = json.loads((folder / NAMES).read_text(encoding="utf-8"))
        return {name: _Facts(**facts) for name, facts in values.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise StudioError(f"the list of {folder.name}'s photos is damaged. Restore it.") from error


def _write_facts(folder: Path, facts: dict[str, _Facts]) -> None:
    values = {name: asdict(one) for name, one in facts.items()}
    write_text(folder / NAMES, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _read_caption(photo: Path) -> str:
    try:
        return " ".join(photo.with_suffix(".txt").read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError):
        return ""


def _checked_caption(text: str) -> str:
    caption = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(caption) > MOST_CAPTION:
        raise StudioError(
            f"a caption has at most {MOST_CAPTION} letters; got {len(caption)}. Shorten it."
        )
    if caption and PLACEHOLDER not in caption.lower():
        raise StudioError(
            "a caption says [V] where the subject's name goes, as in 'a photo of a [V] mug on a "
            "table'."
        )
    return caption


def _add_caption(folder: Path, entry: Incoming, stems: dict[str, str]) -> list[str]:
    """Put an uploaded text beside the photo that came with it; or tell why not."""
    shown = shown_name(entry.name, "caption.txt")
    stored = stems.get(Path(shown).stem.lower())
    if stored is None:
        return [f"{shown} belongs to none of these photos. Name it after one of them."]
    try:
        check_size(shown, entry.file.stat().st_size, MOST_CAPTION_BYTES)
        caption = _checked_caption(entry.file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        return [f"{shown} is no text. Save it as UTF-8."]
    except StudioError as error:
        return [f"{shown}: {error}"]
    write_text((folder / stored).with_suffix(".txt"), caption + "\n")
    return []
