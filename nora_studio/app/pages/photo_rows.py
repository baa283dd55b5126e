"""A subject's photos as rows: the part used in training, the caption, and remarks."""

from collections.abc import Sequence

from nora_studio.app.pages.escaping import escaped
from nora_studio.app.server.photo_report import PhotoReport
from nora_studio.app.server.upload_notes import UploadNote
from nora_studio.app.server.uploads import MAX_CAPTION, StoredPhoto
from nora_studio.app.server.workspace import Workspace
from nora_studio.mini.assets import EMBEDDED
from nora_studio.photos.buckets import bucket_sizes, buckets_pay, nearest_size

RESOLUTIONS = {EMBEDDED: 64}
SDXL_RESOLUTION, SDXL_STEP = 1024, 64
EMPTY = (
    '<div class="empty"><b>No photos yet</b>Drop five or more above: the same subject in different '
    "places, from different sides. Or use one of the examples.</div>"
)


def resolution_of(model: str) -> int:
    """Return the side in pixels of the photos in training, unless an option sets another."""
    return RESOLUTIONS.get(model, SDXL_RESOLUTION)


def photo_rows(
    workspace: Workspace, photos: list[StoredPhoto], report: PhotoReport, model: str, noun: str
) -> str:
    """Show a row for each photo; its fields and buttons send events through `html_events`."""
    if not photos:
        return EMPTY
    overall = "".join(_remark(remark.text, remark.is_unusable) for remark in report.overall)
    shapes = _crop_aspects(photos, model)
    hint = escaped(f"a photo of a [V] {noun or 'mug'} on a wooden table")
    rows = []
    for photo, (width, height) in zip(photos, shapes, strict=True):
        remarks = report.photos.get(photo.name, [])
        said = "".join(_remark(remark.text, remark.is_unusable) for remark in remarks)
        name, masked = escaped(photo.original), " · mask" if photo.has_mask else ""
        rows.append(
            f'<li class="photo-row"><div class="photo-frame"><img style="aspect-ratio:'
            f'{width}/{height}" src="{escaped(workspace.url(photo.thumbnail))}" '
            f'alt="{name}" title="The part of {name} that is trained on"></div>'
            f'<div class="photo-words"><div class="photo-name"><span>{name}</span>'
            f'<span class="note">{photo.width} × {photo.height}{masked}</span>'
            f'<button class="plain-button" data-act="remove" data-photo="{photo.name}" '
            f'aria-label="Remove {name}">Remove</button></div>'
            f'<textarea rows="2" maxlength="{MAX_CAPTION}" data-act="caption" '
            f'data-photo="{photo.name}" aria-label="What is in {name}" placeholder="{hint}">'
            f"{escaped(photo.caption)}</textarea>{said}</div></li>"
        )
    return f'{overall}<ul class="photo-rows">{"".join(rows)}</ul>'


def notes_list(notes: Sequence[UploadNote]) -> str:
    """List the uploaded files that were changed or refused, until the list is dismissed."""
    if not notes:
        return ""
    lines = "".join(
        f'<li class="remark {"bad" if note.kind == "refused" else "mild"}">'
        f"{escaped(note.text)}</li>"
        for note in notes
    )
    button = (
        '<button type="button" class="plain-button" data-act="dismiss-notes">Dismiss</button>'
        if any(note.kind != "waiting" for note in notes)
        else ""
    )
    return (
        '<div class="upload-notes" role="status" aria-label="Files changed or refused">'
        f"<ul>{lines}</ul>{button}</div>"
    )


def _crop_aspects(photos: list[StoredPhoto], model: str) -> list[tuple[int, int]]:
    """Return width and height of the part of each photo that is used in training."""
    resolution = resolution_of(model)
    originals = [(photo.height, photo.width) for photo in photos]
    if resolution < 512 or not buckets_pay(originals, resolution):
        return [(1, 1)] * len(photos)
    sizes = bucket_sizes(resolution, SDXL_STEP)
    chosen = [nearest_size(original, sizes) for original in originals]
    return [(width, height) for height, width in chosen]


def _remark(text: str, is_unusable: bool) -> str:
    kind = "bad" if is_unusable else "mild"
    return f'<p class="remark {kind}">{escaped(text)}</p>'
