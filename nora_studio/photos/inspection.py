"""What is wrong with a folder of photos: one finding a line, the file and the remedy in it.

The limits were set on the 126 photos of 24 subjects of the DreamBooth dataset (longest side 768).
None is accused of blur, light or likeness; of damaged copies, 99% blurred by a Gaussian of 3 pixels
are found, and beside the original 100% at half size, 98% a fifth brighter or cropped by 2% a side,
75% cropped by 4%.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nora_studio.errors import StudioError
from nora_studio.photos.beside import masks_beside
from nora_studio.photos.borders import black_bars
from nora_studio.photos.buckets import Size, covering_scale
from nora_studio.photos.captions import find_captions
from nora_studio.photos.duplicates import Look, find_repeats, look_of
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
"""Variance of the Laplacian in a photo's sharpest tenth. Sharp photos have 104 and more; blurred
by a Gaussian of 3 pixels at 768, nine in ten have less than 22."""
DARKEST_LIGHTS = 50
"""Grey level of 255 that a twentieth of a photo must pass. The darkest good photo's is 107."""
BRIGHTEST_DARKS = 200
"""Grey level of 255 below which a hundredth must be. The brightest good photo's is 117."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    """One word for it: corrupt, tiny, blurred, dark, bright, aspect, bars, duplicate,
    near-duplicate, mirrored, animated, few, many, caption, mask, or unread: a file that is there
    and not used as it may be meant."""
    file: Path
    """The photo, the caption or mask that no photo has, or the folder."""
    message: str
    """What it is, and the remedy; one line that begins with the name."""
    is_unusable: bool = False
    """Whether the trainer would refuse it."""


@dataclass(frozen=True)
class Inspection:
    """What was found in a folder, and the sizes of its readable photos."""

    photos: int
    findings: list[Finding]
    sizes: list[Size]
    has_alpha: bool
    """Whether any photo has a transparent part."""

    @property
    def unusable(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_unusable]


def inspect_folder(
    folder: Path,
    resolution: int | None = None,
    captions: bool = True,
    masks: str = "files",
    asked_by: str = "--instance-dir",
) -> Inspection:
    """Look through a folder of photos, reading each once.

    Args:
        resolution: Side of the training pictures in pixels; None: sizes are not judged.
        captions: Whether captions are looked at.
        masks: Which masks are looked at: "files", "alpha" or "none".
        asked_by: The option or argument that names the folder, for the message.

    Raises:
        StudioError: there is no such folder, or no photo in it.
    """
    files = list_photos(folder, asked_by)
    beside = masks_beside(files).of
    findings: list[Finding] = []
    looks: list[Look] = []
    sizes: list[Size] = []
    has_alpha = False
    for file in files:
        try:
            photo = decode_photo(file)
        except StudioError as error:
            findings.append(Finding("corrupt", file, str(error), is_unusable=True))
            continue
        try:
            read_mask(photo, masks, beside.get(file))
        except StudioError as error:
            findings.append(Finding("mask", file, str(error), is_unusable=True))
        sizes.append(photo.size)
        has_alpha = has_alpha or photo.alpha is not None
        findings += _judge(photo, resolution)
        looks.append(look_of(photo))
    findings += _find_duplicates(looks)
    if len(files) < FEWEST:
        few = f"{folder}: {len(files)} photo(s); from {FEWEST} on, a subject is told from its place"
        findings.append(Finding("few", folder, f"{few}. Add some from other sides and places."))
    if len(files) > MOST:
        many = f"{folder}: {len(files)} photos; the best {FEWEST} to 20 usually teach a subject"
        findings.append(Finding("many", folder, f"{many} better. Or raise --steps with them."))
    findings += _find_beside(files, captions, masks)
    return Inspection(len(files), findings, sizes, has_alpha)


def _judge(photo: DecodedPhoto, resolution: int | None) -> list[Finding]:
    """What is to be said of one photo by itself."""
    found: list[Finding] = []

    def say(kind: str, message: str) -> None:
        found.append(Finding(kind, photo.path, f"{photo.path}: {message}"))

    height, width = photo.size
    if resolution is not None:
        factor = covering_scale(photo.size, (resolution, resolution))
        if factor > UPSCALE_LIMIT:
            say(
                "tiny",
                f"{width}x{height} is scaled up {factor:.1f} times for {resolution} px, and soft "
                "is what is learned. Use a larger copy, or a lower --resolution.",
            )
    aspect = max(height, width) / min(height, width)
    if aspect > EXTREME_ASPECT:
        say("aspect", f"{width}x{height} is {aspect:.1f}:1. Crop it around the subject.")
    grey = _grey(photo.image)
    down, across = black_bars(grey)
    if down or across:
        where = " and ".join(
            f"{words} ({share:.0%})"
            for words, share in (("above and below", down), ("left and right", across))
            if share
        )
        say("bars", f"black bars {where}, and bars are what is learned. Crop them off.")
    low, high = np.percentile(grey, (1, 95))
    if high < DARKEST_LIGHTS:
        say("dark", "too dark to show the subject. Brighten it, or leave it out.")
    elif low > BRIGHTEST_DARKS:
        say("bright", "nearly nothing but white. Darken it, or leave it out.")
    elif sharpness(grey) < LEAST_DETAIL:
        say("blurred", "blurred all over, and blur is what is learned. Leave it out.")
    if photo.is_animated:
        say("animated", "of its frames only the first is used. Save the ones you want as photos.")
    return found


def _grey(image: Image.Image) -> np.ndarray:
    """Grey levels (height, width) of 0 to 255, the longer side `COMMON_SIDE`."""
    scale = COMMON_SIDE / max(image.size)
    size = [max(16, round(side * scale)) for side in image.size]
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(image.convert("L").resize((size[0], size[1]), way), dtype=np.float64)


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian in the sharpest tenth of an 8 x 8 grid of tiles.

    Not over the whole picture: a sharp subject before a soft ground is a good photo.
    """
    middle = grey[1:-1, 1:-1]
    edges = 4 * middle - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    tiles = [tile.var() for row in np.array_split(edges, 8) for tile in np.array_split(row, 8, 1)]
    return float(np.percentile(tiles, 90))


def _find_duplicates(looks: Sequence[Look]) -> list[Finding]:
    """Each photo at most once, with the first that it repeats."""
    words = {
        "duplicate": ("the same picture as", "It would count twice: keep the better one."),
        "near-duplicate": (
            "nearly the same picture as",
            "It would count twice: keep the better one.",
        ),
        "mirrored": ("nearly the mirror image of", "--flip makes it anyway: keep the better one."),
    }
    return [
        Finding(
            repeat.kind,
            repeat.file,
            f"{repeat.file}: {words[repeat.kind][0]} {repeat.of.name}. {words[repeat.kind][1]}",
        )
        for repeat in find_repeats(looks)
    ]


def _find_beside(files: list[Path], captions: bool, masks: str) -> list[Finding]:
    """What is missing or wrong among captions and mask files."""
    found = []
    folder = files[0].parent
    if captions:
        try:
            own = find_captions(files)
            found += _missing("caption", "3.txt beside 3.jpg", files, own.prompts)
            found += [Finding("unread", notice.file, notice.message) for notice in own.notices]
        except StudioError as error:
            found.append(Finding("caption", folder, str(error), is_unusable=True))
    if masks == "files":
        try:
            masks_found = find_masks(files)
            marks = [masks_found.of.get(file) for file in files]
            found += _missing("mask", "3.mask.png beside 3.jpg", files, marks)
            found += [
                Finding("unread", notice.file, notice.message) for notice in masks_found.notices
            ]
        except StudioError as error:
            found.append(Finding("mask", folder, str(error), is_unusable=True))
    return found + _find_videos(files)


def _find_videos(files: list[Path]) -> list[Finding]:
    """Videos that are no telephone's moving part of a photo ("3.mov" beside "3.heic")."""
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


def _missing(kind: str, how: str, files: list[Path], each: Sequence[object]) -> list[Finding]:
    """The photos that lack what others of the folder have."""
    if all(one is None for one in each):
        return []
    remedy = f"has no {kind}, though others here do. Add one ({how})."
    return [
        Finding(kind, f, f"{f}: {remedy}")
        for f, one in zip(files, each, strict=True)
        if one is None
    ]
