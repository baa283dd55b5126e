"""Uploaded captions and masks: each is matched to its photo by the visitor's file names.

Photos are stored under numbers. A caption or mask that is uploaded before its photo is kept in a
hidden folder next to the photos, and attached when that photo is uploaded.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from nora_studio.app.server.photo_content import MAX_PHOTO_BYTES, check_header
from nora_studio.app.server.quota import check_size
from nora_studio.app.server.stored_photos import (
    INCOMING,
    mask_of,
    read_photo_facts,
    validated_caption,
    write_caption,
)
from nora_studio.app.server.upload_notes import UploadNote
from nora_studio.errors import StudioError
from nora_studio.photos.companions import PhotoNames, caption_base, mask_base
from nora_studio.photos.images import MASK_SUFFIX, decode_photo
from nora_studio.photos.masks import read_mask
from nora_studio.photos.texts import decode_text
from nora_studio.runs.atomic import write_text

WAITING = ".waiting"
MAX_WAITING = 100
MAX_CAPTION_BYTES = 8 * 1024
_INDEX = "names.json"


@dataclass(frozen=True)
class Companion:
    """An uploaded caption or mask."""

    file: Path
    name: str
    """The visitor's name for it."""

    @property
    def base(self) -> str:
        """The name of its photo, with or without that photo's suffix."""
        return (mask_base(self.name) if self.is_mask else caption_base(self.name)) or ""

    @property
    def is_mask(self) -> bool:
        """Whether it is a mask, and not a caption."""
        return mask_base(self.name) is not None


def is_companion(name: str) -> bool:
    """Return whether a file of that name is a caption or a mask."""
    return mask_base(name) is not None or caption_base(name) is not None


def attach_companion(
    folder: Path, companion: Companion, new_photos: Collection[str]
) -> UploadNote | None:
    """Store a caption or mask next to its photo, or keep it until that photo is uploaded.

    Args:
        folder: The subject's folder, locked for this request.
        new_photos: Stored names of this upload's photos, which are matched first.

    Returns:
        A note for the visitor; None if it matched exactly one photo.

    Raises:
        StudioError: the file is not a valid caption or mask, or does not fit its photo.
    """
    content = _check_content(companion)
    owners = _find_owners(folder, companion, new_photos)
    if not owners:
        return _keep(folder, companion)
    facts = read_photo_facts(folder)
    originals = [facts[owner].original for owner in owners]
    names = " and ".join(originals)
    if len(owners) > 1 and not set(owners) <= set(new_photos):
        raise StudioError(
            f"{companion.name} matches several photos ({names}). {_remedy(companion, originals)}"
        )
    for owner in owners:
        if companion.is_mask:
            _put_mask(folder / owner, companion)
        else:
            write_caption(folder / owner, content)
    if len(owners) == 1:
        return None
    kind = "mask" if companion.is_mask else "caption"
    text = (
        f"{companion.name} is used as the {kind} of each of {names}. To use it for one of them "
        "only, name it after that photo, suffix included."
    )
    return UploadNote(companion.name, text, "shared")


def _remedy(companion: Companion, originals: Sequence[str]) -> str:
    """Return what to do about a file that is named after several photos."""
    ending = MASK_SUFFIX if companion.is_mask else ".txt"
    remedy = f"Name it after one of them, suffix included, such as {originals[0]}{ending}"
    if len(set(originals)) < len(originals):
        remedy = "Delete all of them but one, and add it again"
    return f"{remedy}." if companion.is_mask else f"{remedy}, or write the caption into its field."


def attach_waiting(
    folder: Path, new_photos: Collection[str]
) -> Iterator[tuple[str, UploadNote | None]]:
    """Attach the captions and masks that waited for the photos of this upload.

    Yields:
        The name of each that no longer waits, and a note for the visitor.
    """
    for companion in _waiting(folder):
        if not _find_owners(folder, companion, new_photos):
            continue
        try:
            yield companion.name, attach_companion(folder, companion, new_photos)
        except StudioError as error:
            yield companion.name, UploadNote(companion.name, str(error))
        _forget(folder, companion)


def _check_content(companion: Companion) -> str:
    """Return a caption's text, empty for a mask; both are checked before anything is stored."""
    size = companion.file.stat().st_size
    if companion.is_mask:
        check_size(companion.name, size, MAX_PHOTO_BYTES)
        check_header(companion.file, companion.name)
        return ""
    check_size(companion.name, size, MAX_CAPTION_BYTES)
    try:
        caption = validated_caption(decode_text(companion.file.read_bytes()))
    except UnicodeDecodeError:
        raise StudioError(f"{companion.name} cannot be read as text. Save it as UTF-8.") from None
    except StudioError as error:
        raise StudioError(f"{companion.name}: {error}") from error
    if not caption:
        raise StudioError(f"{companion.name} is empty. Write a caption with [V] into it.")
    return caption


def _find_owners(folder: Path, companion: Companion, new_photos: Collection[str]) -> list[str]:
    """Return the stored names of the photos that it is named after, those of this upload first."""
    facts = read_photo_facts(folder)
    for names in (new_photos, facts):
        originals: dict[str, list[str]] = {}
        for name in sorted(names):
            originals.setdefault(facts[name].original, []).append(name)
        found = [
            n
            for original in PhotoNames(originals).matching(companion.base)
            for n in originals[original]
        ]
        if found:
            return found
    return []


def _put_mask(photo: Path, companion: Companion) -> None:
    incoming = photo.with_name(f"{INCOMING}{mask_of(photo).name}")
    shutil.copyfile(companion.file, incoming)
    try:
        read_mask(decode_photo(photo), "files", incoming)
    except StudioError as error:
        incoming.unlink(missing_ok=True)
        raise StudioError(str(error).replace(str(incoming), companion.name)) from error
    incoming.replace(mask_of(photo))


def _keep(folder: Path, companion: Companion) -> UploadNote:
    """Keep a caption or mask until its photo is uploaded."""
    waiting, index = folder / WAITING, _index(folder)
    known = next((key for key, name in index.items() if name == companion.name), None)
    if known is None and len(index) >= MAX_WAITING:
        raise StudioError(
            f"{companion.name} was left out: {MAX_WAITING} captions and masks already wait for "
            "their photos. Add those photos first, then this file again."
        )
    key = known or str(max((int(key) for key in index), default=0) + 1)
    waiting.mkdir(exist_ok=True, mode=0o700)
    shutil.copyfile(companion.file, waiting / key)
    _write_waiting_names(folder, {**index, key: companion.name})
    stem = companion.base if PurePath(companion.base).suffix else f"{companion.base}.jpg"
    text = (
        f"{companion.name} waits for its photo: no photo here has its name. Add one, such as "
        f"{stem}."
    )
    return UploadNote(companion.name, text, "waiting")


def _waiting(folder: Path) -> list[Companion]:
    found = (Companion(folder / WAITING / key, name) for key, name in _index(folder).items())
    return [companion for companion in found if companion.file.is_file()]


def _forget(folder: Path, companion: Companion) -> None:
    index = _index(folder)
    _write_waiting_names(
        folder, {key: name for key, name in index.items() if name != companion.name}
    )
    companion.file.unlink(missing_ok=True)


def _index(folder: Path) -> dict[str, str]:
    """Return the visitor's names of the waiting files by their stored names; empty if damaged."""
    try:
        values = json.loads((folder / WAITING / _INDEX).read_text(encoding="utf-8"))
        return {str(int(key)): str(name) for key, name in values.items() if is_companion(str(name))}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_waiting_names(folder: Path, index: dict[str, str]) -> None:
    text = json.dumps(index, ensure_ascii=False, indent=1)
    write_text(folder / WAITING / _INDEX, text + "\n")
