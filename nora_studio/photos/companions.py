"""Caption and mask files next to photos: which photo each belongs to, and which have none."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from nora_studio.photos.images import CAPTION_SUFFIXES, MASK_SUFFIX, is_photo_name

_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: unicodedata.normalize("NFC", name).casefold(),
)
"""Comparisons of names, from exact to case-insensitive; systems write é as one character or two."""


class PhotoNames:
    """The names of photos, to find the photo of a file that is named after it."""

    def __init__(self, photos: Iterable[str]) -> None:
        """Index the photos' names, suffixes included."""
        self._levels: list[tuple[Callable[[str], str], dict[str, list[str]]]] = []
        names = list(photos)
        for spell in _SPELLINGS:
            for part in (str, lambda name: PurePath(name).stem):
                index: dict[str, list[str]] = {}
                for name in names:
                    index.setdefault(spell(part(name)), []).append(name)
                self._levels.append((spell, index))

    def matching(self, base: str) -> list[str]:
        """Return the photos that a file belongs to, given its name without its suffix.

        "3" and "3.jpg" belong to "3.jpg". The closest spelling wins, and then a photo's whole name.
        There are several photos if they differ only in their suffixes ("3.jpg" and "3.png").
        """
        return next((index[s] for spell, index in self._levels if (s := spell(base)) in index), [])


def caption_base(name: str) -> str | None:
    """Return a caption file's name without its suffix; None for another file."""
    is_caption = name.lower().endswith(CAPTION_SUFFIXES) and name[0] != "."
    return PurePath(name).stem if is_caption else None


def mask_base(name: str) -> str | None:
    """Return a mask file's name without ".mask.png"; None for another file."""
    is_mask = name.lower().endswith(MASK_SUFFIX) and name[0] != "."
    return name[: -len(MASK_SUFFIX)] if is_mask else None


@dataclass(frozen=True)
class CompanionProblem:
    """A file next to the photos that is not read, or is read for several photos."""

    file: Path
    message: str
    """The problem and the remedy, in one line that begins with the file."""
    is_orphan: bool = False
    """Whether it belongs to no photo."""


@dataclass(frozen=True)
class CompanionFiles:
    """The files of one kind, captions or masks, that belong to a folder's photos."""

    of: dict[Path, Path]
    """The file of each photo."""
    notices: list[CompanionProblem]


def find_caption_files(photos: Sequence[Path]) -> CompanionFiles:
    """Find the caption files of photos.

    Args:
        photos: Files of one folder; its other photos are taken into account too.
    """
    return _find_companions(photos, caption_base, "caption", ".txt")


def find_mask_files(photos: Sequence[Path]) -> CompanionFiles:
    """Find the mask files of photos, as `find_caption_files` does for captions."""
    return _find_companions(photos, mask_base, "mask", MASK_SUFFIX)


def _find_companions(
    photos: Sequence[Path], base_of: Callable[[str], str | None], kind: str, suffix: str
) -> CompanionFiles:
    folder = photos[0].parent
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    all_photos = {file.name: file for file in (*found, *photos) if is_photo_name(file.name)}
    files = {file: base for file in found if (base := base_of(file.name)) is not None}
    photo_names = PhotoNames(all_photos)
    notices: list[CompanionProblem] = []
    claims: dict[str, list[Path]] = {}
    for file in sorted((f for f in files if f.is_file()), key=lambda f: _rank(f, files[f])):
        names = photo_names.matching(files[file])
        for name in names:
            claims.setdefault(name, []).append(file)
        if not names:
            name = photos[0].name
            notices.append(
                CompanionProblem(
                    file, _orphan_message(file, files[file], name, suffix), is_orphan=True
                )
            )
    chosen: dict[Path, list[str]] = {}
    for name, claimed in claims.items():
        chosen.setdefault(claimed[0], []).append(name)
    for file in dict.fromkeys(file for claimed in claims.values() for file in claimed):
        names = chosen.get(file, [])
        if not names:
            name, claimed = next((n, c) for n, c in claims.items() if file in c)
            what = f"{file} is not read: {claimed[0].name} is the {kind} of {name} already"
            notices.append(CompanionProblem(file, f"{what}. Keep one of them."))
        elif len(names) > 1:
            what = f"{file} is read as the {kind} of both {' and '.join(names)}"
            remedy = f"If they need different ones, add a file for each ({names[0]}{suffix})."
            notices.append(CompanionProblem(file, f"{what}. {remedy}"))
    of = {all_photos[name]: claimed[0] for name, claimed in claims.items()}
    return CompanionFiles(of, sorted(notices, key=lambda notice: notice.file))


def _rank(file: Path, base: str) -> tuple[bool, int, bool, str]:
    """Return a sort key for several files of one photo; the first one is read."""
    suffix = file.suffix.lower()
    order = CAPTION_SUFFIXES.index(suffix) if suffix in CAPTION_SUFFIXES else 0
    return not is_photo_name(base), order, file.suffix != suffix, file.name


def _orphan_message(file: Path, base: str, photo: str, suffix: str) -> str:
    own = f"{PurePath(photo).stem}{suffix}"
    return (
        f"{file} is not read: the folder has no photo named {base!r}. Name it after its photo "
        f"({own} for {photo}), or move it out of the folder."
    )
