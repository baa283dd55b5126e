"""Check a folder of photos for problems; each finding is one line with the file and the remedy.

The limits were set on the 126 photos of 24 subjects of the DreamBooth dataset (longest side 768).
None of them is reported as blurred, too dark, too bright or a duplicate. Of altered copies, 99% are
found that are blurred by a Gaussian of 3 pixels; next to the original, 100% at half size, 98% a
fifth brighter or cropped by 2% a side, and 75% cropped by 4%.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nora_studio.errors import StudioError
from nora_studio.photos.borders import black_bars
from nora_studio.photos.buckets import Size, covering_scale
from nora_studio.photos.captions import find_captions
from nora_studio.photos.companions import find_mask_files
from nora_studio.photos.duplicates import PhotoSignature, find_duplicates, signature_of
from nora_studio.photos.images import (
    MOST_NAMED,
    VIDEO_SUFFIXES,
    DecodedPhoto,
    decode_photo,
    list_photos,
)
from nora_studio.photos.masks import find_masks, read_mask
from nora_studio.photos.views import UPSCALE_LIMIT

FEWEST, MOST = 3, 50
EXTREME_ASPECT = 2.5
COMMON_SIDE = 512
"""Longer side, in pixels, at which all photos are measured."""
LEAST_DETAIL = 30.0
"""Least variance of the Laplacian in a photo's sharpest tenth. Sharp photos have 104 or more; of
those blurred by a Gaussian of 3 pixels at 768, nine in ten have less than 22."""
DARKEST_LIGHTS = 50
"""Grey level, of 255, that 5% of a photo must exceed. For the darkest good photo it is 107."""
BRIGHTEST_DARKS = 200
"""Grey level, of 255, that 1% of a photo must be below. For the brightest good photo it is 117."""


@dataclass(frozen=True)
class Finding:
    """A problem with a photo, its caption or its mask, or with the folder."""

    kind: str
    """One word for it: corrupt, tiny, blurred, dark, bright, aspect, bars, duplicate,
    near-duplicate, mirrored, animated, few, many, caption, mask, or unread: a file that is not
    used."""
    file: Path
    """The photo, the caption or mask without a photo, or the folder."""
    message: str
    """The problem and the remedy, in one line that begins with the file."""
    is_unusable: bool = False
    """Whether the trainer would refuse it."""


@dataclass(frozen=True)
class Inspection:
    """The findings of a folder, and the sizes of its readable photos."""

    photos: int
    findings: list[Finding]
    sizes: list[Size]
    has_alpha: bool
    """Whether any photo has a transparent part."""

    @property
    def unusable(self) -> list[Finding]:
        """The findings for which the trainer would refuse the folder."""
        return [finding for finding in self.findings if finding.is_unusable]


def inspect_folder(
    folder: Path,
    resolution: int | None = None,
    captions: bool = True,
    masks: str = "files",
    flag: str = "--instance-dir",
) -> Inspection:
    """Check a folder of photos, reading each once.

    Args:
        resolution: Side of the training images in pixels. None: sizes are not checked.
        captions: Whether to check captions.
        masks: Which masks to check: "files", "alpha" or "none".
        flag: The option or argument that names the folder, for the message.

    Raises:
        StudioError: the folder does not exist, or has no photos.
    """
    files = list_photos(folder, flag)
    companions = find_mask_files(files).of
    findings: list[Finding] = []
    signatures: list[PhotoSignature] = []
    sizes: list[Size] = []
    has_alpha = False
    for file in files:
        try:
            photo = decode_photo(file)
        except StudioError as error:
            findings.append(Finding("corrupt", file, str(error), is_unusable=True))
            continue
        try:
            read_mask(photo, masks, companions.get(file))
        except StudioError as error:
            findings.append(Finding("mask", file, str(error), is_unusable=True))
        sizes.append(photo.size)
        has_alpha = has_alpha or photo.alpha is not None
        findings += _check_photo(photo, resolution)
        signatures.append(signature_of(photo))
    findings += _find_duplicates(signatures)
    if len(files) < FEWEST:
        few = f"{folder}: {len(files)} photo(s); at least {FEWEST} are needed to learn the subject"
        few += " and not its surroundings"
        findings.append(Finding("few", folder, f"{few}. Add some from other sides and places."))
    if len(files) > MOST:
        many = f"{folder}: {len(files)} photos; {FEWEST} to 20 good ones are usually enough"
        findings.append(Finding("many", folder, f"{many}. Keep the best, or raise --steps."))
    findings += _check_companions(files, captions, masks)
    return Inspection(len(files), findings, sizes, has_alpha)


def _check_photo(photo: DecodedPhoto, resolution: int | None) -> list[Finding]:
    """Return the findings about one photo by itself."""
    found: list[Finding] = []

    def add(kind: str, message: str) -> None:
        found.append(Finding(kind, photo.path, f"{photo.path}: {message}"))

    height, width = photo.size
    if resolution is not None:
        factor = covering_scale(photo.size, (resolution, resolution))
        if factor > UPSCALE_LIMIT:
            add(
                "tiny",
                f"{width}x{height} is scaled up {factor:.1f} times for {resolution} px, so that "
                "soft images are learned. Use a larger copy, or a lower --resolution.",
            )
    aspect = max(height, width) / min(height, width)
    if aspect > EXTREME_ASPECT:
        add("aspect", f"{width}x{height} is {aspect:.1f}:1. Crop it around the subject.")
    grey = _to_grey(photo.image)
    down, across = black_bars(grey)
    if down or across:
        where = " and ".join(
            f"{words} ({share:.0%})"
            for words, share in (("above and below", down), ("left and right", across))
            if share
        )
        add("bars", f"black bars {where}, which would be learned too. Crop them off.")
    low, high = np.percentile(grey, (1, 95))
    if high < DARKEST_LIGHTS:
        add("dark", "too dark to show the subject. Brighten it, or leave it out.")
    elif low > BRIGHTEST_DARKS:
        add("bright", "nearly all white. Darken it, or leave it out.")
    elif sharpness(grey) < LEAST_DETAIL:
        add("blurred", "blurred all over, which would be learned too. Leave it out.")
    if photo.is_animated:
        add("animated", "animated: only the first frame is used. Save other frames as photos.")
    return found


def _to_grey(image: Image.Image) -> np.ndarray:
    """Return grey levels (height, width), 0 to 255, with a longer side of `COMMON_SIDE`."""
    scale = COMMON_SIDE / max(image.size)
    size = [max(16, round(side * scale)) for side in image.size]
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(image.convert("L").resize((size[0], size[1]), way), dtype=np.float64)


def sharpness(grey: np.ndarray) -> float:
    """Return the variance of the Laplacian in the sharpest tenth of an 8 x 8 grid of tiles.

    Not of the whole photo: a sharp subject on a soft background makes a good photo.
    """
    middle = grey[1:-1, 1:-1]
    edges = 4 * middle - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    tiles = [tile.var() for row in np.array_split(edges, 8) for tile in np.array_split(row, 8, 1)]
    return float(np.percentile(tiles, 90))


def _find_duplicates(signatures: Sequence[PhotoSignature]) -> list[Finding]:
    """Return a finding for each photo that is a duplicate of an earlier one."""
    texts = {
        "duplicate": ("the same photo as", "It would count twice: keep the better one."),
        "near-duplicate": (
            "nearly the same photo as",
            "It would count twice: keep the better one.",
        ),
        "mirrored": ("nearly the mirror image of", "--flip makes these: keep the better one."),
    }
    return [
        Finding(
            found.kind,
            found.file,
            f"{found.file}: {texts[found.kind][0]} {found.original.name}. {texts[found.kind][1]}",
        )
        for found in find_duplicates(signatures)
    ]


def _check_companions(files: list[Path], captions: bool, masks: str) -> list[Finding]:
    """Return the findings about captions, mask files and videos."""
    found = []
    folder = files[0].parent
    if captions:
        try:
            own = find_captions(files)
            found += _missing_companions("caption", "3.txt for 3.jpg", files, own.prompts)
            found += [Finding("unread", notice.file, notice.message) for notice in own.notices]
        except StudioError as error:
            found.append(Finding("caption", folder, str(error), is_unusable=True))
    if masks == "files":
        try:
            masks_found = find_masks(files)
            mask_files = [masks_found.of.get(file) for file in files]
            found += _missing_companions("mask", "3.mask.png for 3.jpg", files, mask_files)
            found += [
                Finding("unread", notice.file, notice.message) for notice in masks_found.notices
            ]
        except StudioError as error:
            found.append(Finding("mask", folder, str(error), is_unusable=True))
    return found + _find_videos(files)


def _find_videos(files: list[Path]) -> list[Finding]:
    """Return a finding about videos, except a phone's live photos ("3.mov" for "3.heic")."""
    folder, stems = files[0].parent, {file.stem.lower() for file in files}
    alone = [
        file.name
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in VIDEO_SUFFIXES
        and file.name[0] != "."
        and file.stem.lower() not in stems
    ]
    if not alone:
        return []
    named = ", ".join(alone[:MOST_NAMED]) + (", ..." if len(alone) > MOST_NAMED else "")
    message = f"{folder}: videos are not read ({named}). Save single frames of them as photos."
    return [Finding("unread", folder, message)]


def _missing_companions(
    kind: str, example: str, files: list[Path], companions: Sequence[object]
) -> list[Finding]:
    """Return a finding for each photo without a caption or mask, if others have one."""
    if all(one is None for one in companions):
        return []
    remedy = f"has no {kind}, but other photos have one. Add one ({example})."
    return [
        Finding(kind, f, f"{f}: {remedy}")
        for f, one in zip(files, companions, strict=True)
        if one is None
    ]
