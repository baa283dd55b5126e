"""Captions: a prompt for each photo, from text files or metadata.jsonl."""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.photos.companions import CompanionProblem, find_caption_files
from nora_studio.photos.texts import read_text

METADATA = "metadata.jsonl"
PLACEHOLDER = "[v]"


@dataclass(frozen=True)
class Captions:
    """The captions of a folder's photos."""

    prompts: list[str | None]
    """Each photo's prompt; None for a photo without one."""
    notices: list[CompanionProblem]
    """Caption files that are not read, or are read for several photos."""


def read_captions(photos: list[Path]) -> list[str | None]:
    """Return each photo's prompt, None for one without: `find_captions` without its notices.

    Raises:
        StudioError: for the same reasons as `find_captions`.
    """
    return find_captions(photos).prompts


def find_captions(photos: list[Path]) -> Captions:
    """Read each photo's prompt, and find caption files that belong to no photo.

    A prompt is in a text file with the photo's name ("3.txt", "3.jpg.txt" or "3.caption" for
    "3.jpg"), or in one `metadata.jsonl` for the folder, the layout of image data sets, with one
    line per photo such as {"file_name": "3.jpg", "text": "a photo of a [V] mug on a table"}. The
    text file takes precedence.

    Args:
        photos: Files of one folder.

    Raises:
        StudioError: a caption is empty, cannot be read, or lacks [V]; or a line of metadata.jsonl
            has another form, or names a photo that does not exist.
    """
    folder = photos[0].parent
    companions, notices = find_caption_files(photos), []
    shared: dict[str, str] = {}
    for file in sorted(folder.glob("*.[jJ][sS][oO][nN][lL]")):
        if file.name.lower() == METADATA:
            shared |= _read_metadata(file, {photo.name for photo in photos})
        elif file.name[0] != ".":
            what = f"{file} is not read: expected captions of a whole folder in {METADATA}"
            notices.append(
                CompanionProblem(file, f"{what}. Rename it, or move it out of the folder.")
            )
    prompts = []
    for photo in photos:
        own = companions.of.get(photo)
        text = None if own is None else " ".join(read_text(own).split())
        caption = None if text is None else _check_placeholder(text, str(own))
        other = shared.get(photo.name)
        if own is not None and other is not None and other != caption:
            file = folder / METADATA
            what = f"{file}: its line for {photo.name} is not read, because {own.name} exists"
            notices.append(CompanionProblem(file, f"{what}. Keep one of them."))
        prompts.append(caption or other)
    return Captions(prompts, [*companions.notices, *notices])


def _read_metadata(file: Path, photos: set[str]) -> dict[str, str]:
    captions: dict[str, str] = {}
    composed = {unicodedata.normalize("NFC", name): name for name in photos}
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry["text"]
            if not isinstance(name, str) or not isinstance(text, str):
                raise TypeError
        except (ValueError, RecursionError, KeyError, TypeError):
            raise StudioError(
                f'{where}: expected {{"file_name": "...", "text": "..."}}; got {line.strip()[:80]}.'
            ) from None
        if name not in photos:
            name = composed.get(unicodedata.normalize("NFC", name), name)
        if name not in photos:
            raise StudioError(
                f"{where}: expected the name of a photo in the folder; got {name!r}. Correct or "
                "remove the line."
            )
        if name in captions:
            raise StudioError(
                f"{where}: an earlier line has a caption for {name!r} already. Keep one of the two."
            )
        captions[name] = _check_placeholder(" ".join(text.split()), where)
    return captions


def _check_placeholder(caption: str, where: str) -> str:
    if PLACEHOLDER not in caption.lower():
        raise StudioError(
            f'{where}: expected [V] for the subject, as in "a photo of a [V] mug on a table"; got '
            f"{caption!r}. Add it, or train with --no-captions."
        )
    return caption
