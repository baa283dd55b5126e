"""Which caption and which mask belong to which photo, and what belongs to none."""

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
"""From the letter to letters whatever their case; é is one character on one system, two on others.
"""


class Owners:
    """Photos by their names, for whatever is named after one of them."""

    def __init__(self, photos: Iterable[str]) -> None:
        """Take the photos' names, suffixes included."""
        self._levels: list[tuple[Callable[[str], str], dict[str, list[str]]]] = []
        names = list(photos)
        for spell in _SPELLINGS:
            for part in (str, lambda name: PurePath(name).stem):
                index: dict[str, list[str]] = {}
                for name in names:
                    index.setdefault(spell(part(name)), []).append(name)
                self._levels.append((spell, index))

    def of(self, base: str) -> list[str]:
        """Names of the photos that a file of this name, its suffix left out, belongs to.

        "3" and "3.jpg" belong to "3.jpg"; the closest spelling wins, and then a photo's whole
        name. Several are found where photos differ in their suffix alone ("3.jpg" and "3.png").
        """
        return next((index[s] for spell, index in self._levels if (s := spell(base)) in index), [])


def caption_base(name: str) -> str | None:
    """A caption file's name without its suffix; None of another file."""
    is_caption = name.lower().endswith(CAPTION_SUFFIXES) and name[0] != "."
    return PurePath(name).stem if is_caption else None


def mask_base(name: str) -> str | None:
    """A mask file's name without ".mask.png"; None of another file."""
    is_mask = name.lower().endswith(MASK_SUFFIX) and name[0] != "."
    return name[: -len(MASK_SUFFIX)] if is_mask else None


@dataclass(frozen=True)
class Notice:
    """A file beside the photos that is not read, or read for several of them."""

    file: Path
    message: str
    """What it is, and the remedy; one line that begins with the file."""
    is_orphan: bool = False
    """Whether no photo is its own."""


@dataclass(frozen=True)
class Belongings:
    """The files of one kind, captions or masks, that belong to a folder's photos."""

    of: dict[Path, Path]
    """Photo -> file."""
    notices: list[Notice]


def captions_beside(photos: Sequence[Path]) -> Belongings:
    """The caption files of a folder, by whose they are.

    Args:
        photos: Of one folder; others that lie there are looked at, too.
    """
    return _belongings(photos, caption_base, "caption", ".txt")


def masks_beside(photos: Sequence[Path]) -> Belongings:
    """As `captions_beside`, of mask files."""
    return _belongings(photos, mask_base, "mask", MASK_SUFFIX)


def _belongings(
    photos: Sequence[Path], base_of: Callable[[str], str | None], kind: str, suffix: str
) -> Belongings:
    folder = photos[0].parent
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    all_photos = {file.name: file for file in (*there, *photos) if is_photo_name(file.name)}
    files = {file: base for file in there if (base := base_of(file.name)) is not None}
    owners_by_name = Owners(all_photos)
    notices: list[Notice] = []
    claims: dict[str, list[Path]] = {}
    for file in sorted((f for f in files if f.is_file()), key=lambda f: _rank(f, files[f])):
        owners = owners_by_name.of(files[file])
        for name in owners:
            claims.setdefault(name, []).append(file)
        if not owners:
            name = photos[0].name
            notices.append(Notice(file, _orphan(file, files[file], name, suffix), is_orphan=True))
    chosen: dict[Path, list[str]] = {}
    for name, claimed in claims.items():
        chosen.setdefault(claimed[0], []).append(name)
    for file in dict.fromkeys(file for claimed in claims.values() for file in claimed):
        names = chosen.get(file, [])
        if not names:
            name, claimed = next((n, c) for n, c in claims.items() if file in c)
            what = f"{file} is not read: {claimed[0].name} is the {kind} of {name} already"
            notices.append(Notice(file, f"{what}. Keep one of them."))
        elif len(names) > 1:
            what = f"{file} is read as the {kind} of {' and '.join(names)} alike"
            remedy = f"Where they differ, give each its own ({names[0]}{suffix})."
            notices.append(Notice(file, f"{what}. {remedy}"))
    of = {all_photos[name]: claimed[0] for name, claimed in claims.items()}
    return Belongings(of, sorted(notices, key=lambda notice: notice.file))


def _rank(file: Path, base: str) -> tuple[bool, int, bool, str]:
    """Which of several files for one photo is read: the first one by this."""
    suffix = file.suffix.lower()
    order = CAPTION_SUFFIXES.index(suffix) if suffix in CAPTION_SUFFIXES else 0
    return not is_photo_name(base), order, file.suffix != suffix, file.name


def _orphan(file: Path, base: str, photo: str, suffix: str) -> str:
    own = f"{PurePath(photo).stem}{suffix}"
    return (
        f"{file} is not read: there is no photo {base!r} of any kind here. Name it after its photo "
        f"({own} for {photo}), or move it out of the folder."
    )
