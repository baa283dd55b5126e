"""The photo report as data: what `nora-studio check-photos` says of each of a subject's photos."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from nora_studio import __version__
from nora_studio.atomic import write_text
from nora_studio.data.inspection import inspect_folder
from nora_studio.studio.uploads import LOCK, photos_of
from nora_studio.studio.workspace import Workspace

REPORT = ".report.json"
"""Beside the photos; looked at again only when one of them, or a caption, has changed."""


@dataclass(frozen=True)
class Remark:
    """One thing that is not as it should be."""

    kind: str
    """One word for it (`data.inspection.Finding.kind`)."""
    text: str
    """What it is, and the remedy."""
    is_unusable: bool
    """Whether the trainer would refuse it."""


@dataclass(frozen=True)
class PhotoReport:
    """What is to be said of a subject's photos."""

    photos: dict[str, list[Remark]]
    """By the photo's name; those that nothing is said against are not there."""
    overall: list[Remark]
    """Of all of them together."""

    @property
    def is_usable(self) -> bool:
        """Whether the trainer takes them as they are."""
        remarks = [remark for told in self.photos.values() for remark in told]
        return not any(remark.is_unusable for remark in [*remarks, *self.overall])


def photo_report(workspace: Workspace, subject: str, resolution: int) -> PhotoReport:
    """Look through a subject's photos; a third of a second for each that is new.

    Args:
        resolution: Side in pixels that they are to be trained at.

    Raises:
        StudioError: the subject's name is none.
    """
    photos = photos_of(workspace, subject)
    if not photos:
        return PhotoReport({}, [])
    folder = photos[0].file.parent
    state = _state(folder, resolution)
    kept = _read(folder / REPORT)
    if kept.get("state") != state:
        findings = inspect_folder(folder, resolution).findings
        kept = {
            "state": state,
            "remarks": [
                {
                    "photo": finding.file.name if finding.file.parent == folder else "",
                    "kind": finding.kind,
                    "text": _without_path(finding.message, folder),
                    "is_unusable": finding.is_unusable,
                }
                for finding in findings
            ],
        }
        with FileLock(folder / LOCK, timeout=60):
            write_text(folder / REPORT, json.dumps(kept) + "\n")
    report = PhotoReport({}, [])
    for told in kept["remarks"]:
        remark = Remark(told["kind"], told["text"], told["is_unusable"])
        place = report.photos.setdefault(told["photo"], []) if told["photo"] else report.overall
        place.append(remark)
    return report


def _without_path(message: str, folder: Path) -> str:
    """A finding in words for a page, which names the photo beside them and no folder of ours."""
    text = message.replace(f"{folder}/", "").replace(f"{folder}: ", "")
    text = text.replace(str(folder), folder.name)
    name, colon, rest = text.partition(": ")
    said = rest if colon and (folder / name).is_file() else text
    return said[:1].upper() + said[1:]


def _state(folder: Path, resolution: int) -> str:
    """A digest of all that a report follows from."""
    files = sorted(file for file in folder.iterdir() if file.name[0] != "." and file.is_file())
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((__version__, resolution, stats)).encode()).hexdigest()


def _read(file: Path) -> dict:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        fields = {field.name for field in dataclasses.fields(Remark)} | {"photo"}
        is_ours = all(set(told) == fields for told in kept["remarks"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return kept if is_ours else {}
