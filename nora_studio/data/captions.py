"""What stands beside the photos about each: a prompt of its own."""

import json
from pathlib import Path

from nora_studio.errors import StudioError

METADATA = "metadata.jsonl"
PLACEHOLDER = "[v]"


def read_captions(photos: list[Path]) -> list[str | None]:
    """Each photo's own prompt, None where it has none.

    A prompt stands in a text file of the photo's name ("3.jpg", "3.txt"), or in one
    `metadata.jsonl` for the folder, the layout of image data sets: a line a photo, such as
    {"file_name": "3.jpg", "text": "a photo of a [V] mug on a table"}. The text file wins.

    Args:
        photos: Files of one folder.

    Raises:
        StudioError: a caption is empty, cannot be read, or does not say [V]; or a line of
            metadata.jsonl is no such line, or names a photo that is not there.
    """
    shared = _read_metadata(photos[0].parent / METADATA, {photo.name for photo in photos})
    return [_read_beside(photo) or shared.get(photo.name) for photo in photos]


def _read_beside(photo: Path) -> str | None:
    file = photo.with_suffix(".txt")
    if not file.is_file():
        return None
    try:
        caption = " ".join(file.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"{file} cannot be read: {error}. Save it as UTF-8.") from None
    return _checked(caption, str(file))


def _read_metadata(file: Path, photos: set[str]) -> dict[str, str]:
    if not file.is_file():
        return {}
    captions: dict[str, str] = {}
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StudioError(f"{file} cannot be read: {error}. Save it as UTF-8.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            entry = json.loads(line)
            name, text = entry["file_name"], entry["text"]
            if not isinstance(name, str) or not isinstance(text, str):
                raise TypeError
        except (json.JSONDecodeError, KeyError, TypeError):
            raise StudioError(
                f'{where}: expected {{"file_name": "...", "text": "..."}}; got {line.strip()[:80]}.'
            ) from None
        if name not in photos:
            raise StudioError(f"{where}: there is no photo {name!r} here. Correct or remove it.")
        captions[name] = _checked(" ".join(text.split()), where)
    return captions


def _checked(caption: str, where: str) -> str:
    if PLACEHOLDER not in caption.lower():
        raise StudioError(
            f"{where}: expected [V] where the subject's name goes, as in \"a photo of a [V] mug on "
            f'a table"; got {caption!r}. Or train with --no-captions.'
        )
    return caption
