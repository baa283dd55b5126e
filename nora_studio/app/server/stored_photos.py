"""A subject's photos in a visitor's folder, with captions, masks and original names."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock
from PIL import ImageOps

from nora_studio.app.server.file_route import THUMBNAILS
from nora_studio.app.server.photo_content import thumbnail_of
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.photos.captions import PLACEHOLDER
from nora_studio.photos.images import MASK_SUFFIX, is_photo_name
from nora_studio.photos.opening import open_image
from nora_studio.photos.texts import decode_text
from nora_studio.runs.atomic import write_text
from nora_studio.runs.disk_errors import START_AGAIN, writing

MAX_CAPTION = 500
"""Characters."""
NAMES = "names.json"
LOCK = ".lock"
INCOMING = ".incoming-"
"""Prefix of a file that is being stored."""


@dataclass(frozen=True)
class StoredPhoto:
    """A photo of a subject, as it is stored."""

    file: Path
    original: str
    """The visitor's name for it."""
    caption: str
    """Empty: no caption."""
    width: int
    """In pixels, after rotation by its EXIF data."""
    height: int
    thumbnail: Path

    @property
    def name(self) -> str:
        """Its stored name: "03.jpg"."""
        return self.file.name

    @property
    def has_mask(self) -> bool:
        """Whether it has a mask."""
        return mask_of(self.file).is_file()


@dataclass(frozen=True)
class PhotoFacts:
    """A photo's original name and size, as stored."""

    original: str
    width: int
    height: int


def subjects_of(workspace: Workspace) -> list[str]:
    """Return the names of the subjects that a visitor has photos of."""
    found = (path for path in workspace.photos.iterdir() if path.name[0] != ".")
    return sorted(path.name for path in found if read_photo_facts(path))


def photos_of(workspace: Workspace, subject: str) -> list[StoredPhoto]:
    """Return a subject's photos in upload order; none if the subject is unknown."""
    folder = workspace.photos / check_name(subject)
    facts = read_photo_facts(folder)
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


def find_photo(workspace: Workspace, subject: str, name: str) -> StoredPhoto:
    """Return a subject's photo by its stored name.

    Raises:
        StudioError: there is no such photo.
    """
    for photo in photos_of(workspace, subject):
        if photo.name == name:
            return photo
    raise StudioError(
        f"there is no photo {str(name)[:80]!r} of {subject} here. It may have been removed."
    )


def mask_of(photo: Path) -> Path:
    """Return the path of a stored photo's mask."""
    return photo.with_name(photo.stem + MASK_SUFFIX)


@contextlib.contextmanager
def locked_subject(workspace: Workspace, subject: str) -> Iterator[Path]:
    """Lock the subject's folder for one request and remove the leftovers of an interrupted one."""
    folder = workspace.photos / check_name(subject)
    with writing("photos", Path(subject), START_AGAIN):
        (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(folder / LOCK, timeout=60):
            for left in folder.glob(f"{INCOMING}*"):
                left.unlink(missing_ok=True)
            yield folder


def set_caption(workspace: Workspace, subject: str, name: str, text: str) -> str:
    """Set a photo's caption, or delete it if the text is empty; return the caption.

    Raises:
        StudioError: there is no such photo, or the text lacks [V] or is too long.
    """
    with locked_subject(workspace, subject):
        photo = find_photo(workspace, subject, name)
        caption = validated_caption(text)
        write_caption(photo.file, caption)
    return caption


def write_caption(photo: Path, caption: str) -> None:
    """Write a validated caption next to a stored photo; delete it if it is empty."""
    file = photo.with_suffix(".txt")
    if caption:
        write_text(file, caption + "\n")
    else:
        file.unlink(missing_ok=True)


def validated_caption(text: str) -> str:
    """Return a caption in one line.

    Raises:
        StudioError: the caption is too long, or lacks [V].
    """
    caption = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(caption) > MAX_CAPTION:
        raise StudioError(
            f"expected at most {MAX_CAPTION} characters in a caption; got {len(caption)}. Shorten "
            "it."
        )
    if caption and PLACEHOLDER not in caption.lower():
        raise StudioError(
            "expected [V] in the caption where the subject's name goes, as in 'a photo of a [V] "
            "mug on a table'."
        )
    return caption


def read_photo_facts(folder: Path) -> dict[str, PhotoFacts]:
    """Read what is stored about each photo, by its stored name; empty for a folder without photos.

    If the list cannot be read, for example after an edit by hand, it is rebuilt from the photos,
    with their stored names in place of the visitor's.
    """
    try:
        values = json.loads((folder / NAMES).read_text(encoding="utf-8"))
        return {name: PhotoFacts(**facts) for name, facts in values.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, TypeError, AttributeError):
        return {file.name: _facts_of(file) for file in sorted(folder.iterdir()) if _is_photo(file)}


def _is_photo(file: Path) -> bool:
    return file.stem.isdigit() and is_photo_name(file.name) and file.is_file()


def _facts_of(photo: Path) -> PhotoFacts:
    with open_image(photo) as image:
        return PhotoFacts(photo.name, *ImageOps.exif_transpose(image).size)


def write_photo_facts(folder: Path, facts: dict[str, PhotoFacts]) -> None:
    """Write the facts that `read_photo_facts` reads."""
    values = {name: asdict(one) for name, one in facts.items()}
    write_text(folder / NAMES, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _read_caption(photo: Path) -> str:
    try:
        return " ".join(decode_text(photo.with_suffix(".txt").read_bytes()).split())
    except (OSError, UnicodeDecodeError):
        return ""
