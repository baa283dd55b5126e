"""Render the held-out subjects of the toy world: the studio's example photos.

    python training/render_subjects.py --out assets/subjects

Every subject gets a folder with five photos to train on, `photos/0.jpg` to `4.jpg`, each with a
caption that names its place (`0.txt`); an image in each of six other places, `scenes/<place>.jpg`;
and `subject.json`, its description and a prompt with [V] for each of these places.
Takes about a minute on one CPU core; the same seed gives the same images.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from nora_studio.errors import StudioError
from nora_studio.mini.world import PLACE_PHRASES, SUBJECTS, Subject, render, subject_scenes
from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import replacing

PHOTO_PLACES = ("table", "grass", "brick", "kitchen", "plain")
SCENE_PLACES = ("snow", "beach", "moon", "forest", "city", "underwater")


@dataclass(frozen=True)
class Options:
    """Render the held-out subjects of the toy world: photos to train on, scenes to evaluate."""

    out: Path = Path("assets/subjects")
    """Folder for a folder of each subject; existing ones are replaced."""
    size: int = 256
    """Side of an image in pixels, at least 64."""
    quality: int = 90
    """JPEG quality, 1 to 95."""
    seed: int = 0
    """Seed of the views; the subjects stay the same."""
    sheet: Path | None = None
    """Also save all images as one contact sheet, a row for each subject."""


def main(options: Options) -> None:
    """Render every example subject's photos and scenes into the output folder."""
    if options.size < 64:
        raise StudioError(f"--size must be 64 or more; got {options.size}.")
    if not 1 <= options.quality <= 95:
        raise StudioError(f"--quality must be 1 to 95; got {options.quality}.")
    rows = []
    for number, subject in enumerate(SUBJECTS.values()):
        seed = 1000 * options.seed + 2 * number
        photos = render_views(subject, PHOTO_PLACES, seed, options.size)
        scenes = render_views(subject, SCENE_PLACES, seed + 1, options.size)
        with replacing(options.out / subject.name) as folder:
            write_subject(folder, subject, photos, scenes, options.quality)
        rows.append(photos + scenes)
        print(f"{options.out / subject.name}: {subject.description}")
    if options.sheet is not None:
        contact_sheet(rows).save(options.sheet)


def render_views(
    subject: Subject, places: tuple[str, ...], seed: int, size: int
) -> list[Image.Image]:
    """Render a subject's views in some places."""
    pictures = render(subject_scenes(subject.name, places, seed), size)
    pixels = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def write_subject(
    folder: Path,
    subject: Subject,
    photos: list[Image.Image],
    scenes: list[Image.Image],
    quality: int,
) -> None:
    """Write a subject's photos, captions and held-out scenes into a folder."""
    (folder / "photos").mkdir()
    (folder / "scenes").mkdir()
    for number, (photo, place) in enumerate(zip(photos, PHOTO_PLACES, strict=True)):
        photo.save(folder / "photos" / f"{number}.jpg", quality=quality, optimize=True)
        caption = folder / "photos" / f"{number}.txt"
        caption.write_text(prompt(subject, place) + "\n", encoding="utf-8")
    for place, scene in zip(SCENE_PLACES, scenes, strict=True):
        scene.save(folder / "scenes" / f"{place}.jpg", quality=quality, optimize=True)
    card = {
        "name": subject.name,
        "class_word": subject.class_word,
        "description": subject.description,
        "scenes": [{"place": place, "prompt": prompt(subject, place)} for place in SCENE_PLACES],
    }
    (folder / "subject.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def prompt(subject: Subject, place: str) -> str:
    """Return the prompt of a subject in a place."""
    return f"a photo of a [V] {subject.class_word} {PLACE_PHRASES[place][0]}"


def contact_sheet(rows: list[list[Image.Image]], gap: int = 2) -> Image.Image:
    """Paste rows of images of one size into one image."""
    step = rows[0][0].width + gap
    sheet = Image.new("RGB", (step * len(rows[0]) - gap, step * len(rows) - gap), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (column * step, row * step))
    return sheet


if __name__ == "__main__":
    try:
        main(parse_command(Options, description=Options.__doc__))
    except StudioError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
