"""What stands beside the photos about each: a prompt of its own."""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.photos.beside import Notice, captions_beside
from nora_studio.photos.texts import read_text

METADATA = "metadata.jsonl"
PLACEHOLDER = "[v]"


@dataclass(frozen=True)
class Captions:
    """The prompts of a folder's photos."""

    prompts: list[str | None]
    """Each photo's own, None where it has none."""
    notices: list[Notice]
    """Captions that are there and not read, or read for several photos."""


def read_captions(photos: list[Path]) -> list[str | None]:
    """Each photo's own prompt, None where it has none: `find_captions` without its notices.

    Raises:
        StudioError: as there.
    """
    return find_captions(photos).prompts


def find_captions(photos: list[Path]) -> Captions:
    """Read each photo's own prompt, and find those that belong to none.

    A prompt stands in a text file of the photo's name ("3.txt", "3.jpg.txt" or "3.caption" for
    "3.jpg"), or in one `metadata.jsonl` for the folder, the layout of image data sets: a line a
    photo, such as {"file_name": "3.jpg", "text": "a photo of a [V] mug on a table"}. The text file
    wins.

    Args:
        photos: Files of one folder.

    Raises:
        StudioError: a caption is empty, cannot be read, or does not say [V]; or a line of
            metadata.jsonl is no such line, or names a photo that is not there.
    """
    folder = photos[0].parent
    beside, notices = captions_beside(photos), []
    shared: dict[str, str] = {}
    for file in sorted(folder.glob("*.[jJ][sS][oO][nN][lL]")):
        if file.name.lower() == METADATA:
            shared |= _read_metadata(file, {photo.name for photo in photos})
        elif file.name[0] != ".":
            what = f"{file} is not read: captions of a whole folder stand in {METADATA}"
            notices.append(Notice(file, f"{what}. Rename it, or move it out of the folder."))
    prompts = []
    for photo in photos:
        own = beside.of.get(photo)
        words = None if own is None else _checked(" ".join(read_text(own).split()), str(own))
        other = shared.get(photo.name)
        if own is not None and other is not None and other != words:
            file = folder / METADATA
            what = f"{file}: its line for {photo.name} is not read, as {own.name} captions it"
            notices.append(Notice(file, f"{what}. Keep one of them."))
        prompts.append(words or other)
    return Captions(prompts, [*beside.notices, *notices])


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
            raise StudioError(f"{where}: there is no photo {name!r} here. Correct or remove it.")
        if name in captions:
            raise StudioError(
                f"{where}: {name!r} is captioned by a line before. Keep one of the two lines."
            )
        captions[name] = _checked(" ".join(text.split()), where)
    return captions


def _checked(caption: str, where: str) -> str:
    if PLACEHOLDER not in caption.lower():
        raise StudioError(
            f"{where}: expected [V] where the subject's name goes, as in \"a photo of a [V] mug on "
            f'a table"; got {caption!r}. Or train with --no-captions.'
        )
    return caption
