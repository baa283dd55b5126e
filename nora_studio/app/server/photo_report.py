"""The photo report as data: what `nora-studio check-photos` finds about a subject's photos."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from nora_studio import __version__
from nora_studio.app.server.stored_photos import LOCK, photos_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.photos.inspection import inspect_folder
from nora_studio.runs.atomic import write_text

_FORM = 2
"""Version of the stored report; raise it when the stored texts change."""
_STORED = re.compile(r"(?<![\w.-])(\d{2,3})(\.mask\.png|\.[a-z]{3,4})(?!\w)")
"""Stored names of photos, masks and captions."""
REPORT = ".report.json"
"""File next to the photos; the report is made again only if a photo or caption has changed."""


@dataclass(frozen=True)
class Remark:
    """One finding about a photo or about all of them."""

    kind: str
    """Kind of finding (`photos.inspection.Finding.kind`)."""
    text: str
    """The problem and its remedy, with the visitor's names of other photos."""
    is_unusable: bool
    """Whether the trainer would refuse it."""


@dataclass(frozen=True)
class PhotoReport:
    """All remarks about a subject's photos."""

    photos: dict[str, list[Remark]]
    """Remarks by the photo's stored name; photos without remarks are left out."""
    overall: list[Remark]
    """Remarks about all photos together."""

    @property
    def is_usable(self) -> bool:
        """Whether the trainer accepts the photos."""
        remarks = [remark for entry in self.photos.values() for remark in entry]
        return not any(remark.is_unusable for remark in [*remarks, *self.overall])


def photo_report(workspace: Workspace, subject: str, resolution: int) -> PhotoReport:
    """Inspect a subject's photos; takes a third of a second for each new one.

    Args:
        resolution: Side in pixels of the photos in training.

    Raises:
        StudioError: the subject's name is not allowed.
    """
    photos = photos_of(workspace, subject)
    if not photos:
        return PhotoReport({}, [])
    folder = photos[0].file.parent
    state = _state(folder, resolution)
    kept = _read(folder / REPORT)
    if kept.get("state") != state:
        findings = inspect_folder(folder, resolution).findings
        originals = {photo.name: photo.original for photo in photos}
        kept = {
            "state": state,
            "remarks": [
                {
                    "photo": finding.file.name if finding.file.name in originals else "",
                    "kind": finding.kind,
                    "text": _with_original_names(finding.message, folder, originals),
                    "is_unusable": finding.is_unusable,
                }
                for finding in findings
            ],
        }
        with FileLock(folder / LOCK, timeout=60):
            write_text(folder / REPORT, json.dumps(kept) + "\n")
    report = PhotoReport({}, [])
    for entry in kept["remarks"]:
        remark = Remark(entry["kind"], entry["text"], entry["is_unusable"])
        place = report.photos.setdefault(entry["photo"], []) if entry["photo"] else report.overall
        place.append(remark)
    return report


def _with_original_names(message: str, folder: Path, originals: dict[str, str]) -> str:
    """Reword a finding for the page: with the visitor's names and no server path."""
    text = message.replace(f"{folder}/", "").replace(f"{folder}: ", "")
    text = text.replace(str(folder), folder.name)
    name, colon, rest = text.partition(": ")
    wording = rest if colon and name in originals else text
    stems = {Path(stored).stem: original for stored, original in originals.items()}

    def original_name(found: re.Match[str]) -> str:
        stem, suffix = found.groups()
        original = originals.get(found[0]) or stems.get(stem)
        if original is None:
            return found[0]
        descriptions = {".mask.png": "the mask of ", ".txt": "the caption of "}
        return descriptions.get(suffix, "") + original

    wording = _STORED.sub(original_name, wording)
    starts_with_name = any(wording.startswith(original) for original in originals.values())
    return wording if starts_with_name else wording[:1].upper() + wording[1:]


def _state(folder: Path, resolution: int) -> str:
    """Return a digest of everything that a report depends on."""
    files = sorted(file for file in folder.iterdir() if file.name[0] != "." and file.is_file())
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((__version__, _FORM, resolution, stats)).encode()).hexdigest()


def _read(file: Path) -> dict:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        fields = {field.name for field in dataclasses.fields(Remark)} | {"photo"}
        is_ours = all(set(entry) == fields for entry in kept["remarks"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return kept if is_ours else {}
