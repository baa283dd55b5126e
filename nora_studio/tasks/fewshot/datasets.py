"""Sets of labelled images: CoOp's splits, plain folders, and one rendered on demand."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.mini.world import sample_scenes
from nora_studio.mini.world.newcomers import NEWCOMERS
from nora_studio.mini.world.render import render
from nora_studio.photos.images import open_photo
from nora_studio.runs.disk_cache import TensorCache, default_cache_folder
from nora_studio.runs.strict_json import JsonObject
from nora_studio.tasks.fewshot.shots import divide

SPLITS = ("train", "val", "test")
EMBEDDED_SET = "embedded"
DRAWN_PIXELS = 128
DRAWN_OF_EACH = {"train": 20, "val": 4, "test": 40}
"""Images of each class in the embedded set, by split."""
_DRAWN_SEED = 2408_10280
_DRAWN_AT_ONCE = 64
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class CoopLayout:
    """The paths of a set in CoOp's benchmark, relative to the data folder."""

    images: str
    """Folder that the split's paths are relative to."""
    split: str
    """JSON file of the splits."""


COOP = {
    "food101": CoopLayout("Food101/images", "Food101/split_zhou_Food101.json"),
    "oxford_pets": CoopLayout("OxfordPets/images", "OxfordPets/split_zhou_OxfordPets.json"),
    "dtd": CoopLayout("DTD/images", "DTD/split_zhou_DescribableTextures.json"),
}


@dataclass(frozen=True)
class Picture:
    """One image of a set."""

    name: str
    """Unique name within the set, such as a path."""
    open: Callable[[], Image.Image]
    """Opens the image, as RGB."""
    digest: Callable[[], str]
    """Returns a digest of its content."""


@dataclass(frozen=True)
class Dataset:
    """Classes, and labelled images in three splits."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, list[tuple[Picture, int]]]
    template: str = "a photo of a {}."
    """Sentence of a class, with {} for its name."""
    note: str = ""
    """How the splits were made, if they are not the set's own."""

    @property
    def chance(self) -> float:
        """Accuracy of random guesses."""
        return 1 / len(self.classes)


def find_dataset(
    name: str, data_dir: Path | None, per_class: dict[str, int] | None = None
) -> Dataset:
    """Find a set by its name.

    Args:
        name: "embedded", a key of `COOP`, or a folder with one folder of images for each class.
        data_dir: Folder of CoOp's sets.
        per_class: Images of each class to render for the embedded set, by split.

    Raises:
        StudioError: the set is missing, or has another layout.
    """
    if name == EMBEDDED_SET:
        return drawn_dataset(per_class or DRAWN_OF_EACH)
    if name in COOP:
        if data_dir is None:
            raise StudioError(
                f"--dataset {name}: its images are not included. Give the folder with "
                f"{COOP[name].split} as --data-dir."
            )
        return coop_dataset(name, data_dir)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder_dataset(folder)
    raise StudioError(
        f"--dataset: expected embedded, {', '.join(COOP)} or a folder with a folder of images for "
        f"each class; got {name!r}, which does not exist here."
    )


def coop_dataset(name: str, data_dir: Path) -> Dataset:
    """Read one of CoOp's sets, a JSON file of {train, val, test}: rows of [path, label, class].

    Raises:
        StudioError: a file is missing or damaged.
    """
    layout, top = COOP[name], Path(data_dir).expanduser()
    file, images = top / layout.split, top / layout.images
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        splits, classes = _coop_rows(rows, images)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudioError(
            f"--dataset {name}: {file} cannot be read as CoOp's split: {error!r}. Put "
            "CoOp's split_zhou file there, next to its images."
        ) from error
    gone = [picture.name for one in splits.values() for picture, _ in one[:1] if
            not (images / picture.name).is_file()]  # fmt: skip
    if gone:
        raise StudioError(
            f"--dataset {name}: expected the images of {file} in {images}; {gone[0]} is not "
            "there. Unpack them there."
        )
    return Dataset(name, classes, splits)


def _coop_rows(
    rows: JsonObject, images: Path
) -> tuple[dict[str, list[tuple[Picture, int]]], tuple[str, ...]]:
    names: dict[int, str] = {}
    splits: dict[str, list[tuple[Picture, int]]] = {}
    for split in SPLITS:
        splits[split] = []
        for path, label, class_name in rows[split]:
            names[int(label)] = str(class_name).replace("_", " ")
            splits[split].append((_of_file(images / path, str(path)), int(label)))
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"labels should be 0 to {len(names) - 1}; got {sorted(names)}")
    return splits, tuple(names[label] for label in range(len(names)))


def folder_dataset(folder: Path) -> Dataset:
    """Read a folder of `class/image.jpg`, split in three with a fixed seed.

    Raises:
        StudioError: there are fewer than two classes.
    """
    found = {
        own.name: sorted(f for f in own.rglob("*") if f.suffix.lower() in ENDINGS and f.is_file())
        for own in sorted(folder.iterdir())
        if own.is_dir() and not own.name.startswith(".")
    }
    found = {name: files for name, files in found.items() if files}
    if len(found) < 2:
        raise StudioError(
            f"--dataset: expected a folder of images for each of two or more classes in {folder}; "
            f"found {len(found)}."
        )
    pictures = [
        (_of_file(file, str(file.relative_to(folder))), label)
        for label, files in enumerate(found.values())
        for file in files
    ]
    train, validation, test = divide(pictures)
    classes = tuple(name.replace("_", " ") for name in found)
    splits = {"train": train, "val": validation, "test": test}
    note = (
        f"without own splits: split with seed 0 into {len(train)}, {len(validation)}, {len(test)}"
    )
    return Dataset(folder.name, classes, splits, note=note)


def _of_file(file: Path, name: str) -> Picture:
    def digest() -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest()

    return Picture(name, lambda: open_photo(file), digest)


def drawn_dataset(per_class: dict[str, int]) -> Dataset:
    """Return the embedded set: things and attributes that the embedded CLIP was not trained on.

    Images are rendered at the first use and cached in the user's cache folder.
    """
    splits = {split: _drawn_split(number, split, per_class[split]) for number, split in
              enumerate(SPLITS)}  # fmt: skip
    # The captions that the embedded CLIP was trained on have no full stop.
    return Dataset(EMBEDDED_SET, tuple(NEWCOMERS), splits, template="a photo of a {}")


def _drawn_split(number: int, split: str, count: int) -> list[tuple[Picture, int]]:
    seed = _DRAWN_SEED + number
    drawn: list[Tensor] = []
    drawing = Lock()

    def pixels(row: int) -> np.ndarray:
        with drawing:  # Called from several threads.
            if not drawn:
                drawn.append(_drawn_pixels(seed, count))
        return drawn[0][row].permute(1, 2, 0).numpy()

    def picture(row: int) -> Picture:
        return Picture(
            f"{split}/{row:04d}",
            lambda: Image.fromarray(pixels(row)),
            lambda: hashlib.sha256(np.ascontiguousarray(pixels(row)).tobytes()).hexdigest(),
        )

    return [(picture(row), row // count) for row in range(len(NEWCOMERS) * count)]


def _drawn_pixels(seed: int, count: int) -> Tensor:  # (classes * count, 3, size, size), uint8
    """Render `count` images of each newcomer, or read them from the cache."""
    store = TensorCache(default_cache_folder("fewshot"))
    key = f"newcomers 1, {seed}, {count} of {','.join(NEWCOMERS)} at {DRAWN_PIXELS}"
    kept = store.read(key)
    if kept is None:
        kinds = torch.arange(len(NEWCOMERS)).repeat_interleave(count)
        none = torch.zeros_like(kinds)
        scenes = sample_scenes(len(kinds), seed)
        scenes = replace(scenes, kind=kinds, name=none - 1, emblem=none, accessory=none)
        parts = [
            render(
                scenes.select(slice(start, start + _DRAWN_AT_ONCE)),
                DRAWN_PIXELS,
                kinds=NEWCOMERS,
                classes=list(NEWCOMERS),
            )
            for start in range(0, len(kinds), _DRAWN_AT_ONCE)
        ]
        kept = {"pixels": (torch.cat(parts) * 255).round().byte()}
        store.write(key, kept)
    return kept["pixels"]


def record_of(pictures: Sequence[tuple[Picture, int]], split: str) -> dict[str, str]:
    """Return each image's label and digest, with which a run is compared when it is resumed."""
    return {f"{split}/{one.name}": f"{label} {one.digest()}" for one, label in pictures}
