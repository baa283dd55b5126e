"""Photos that repeat another of their folder: the same, nearly the same, or its mirror image."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from nora_studio.photos.images import DecodedPhoto

NEAR_BITS = 10
"""Of 63 bits of two perceptual hashes: at most so many differ between near-duplicates."""
NEAR_CORRELATION = 0.8
"""And so alike must their thumbnails be. Of the good photos, none comes near both."""


@dataclass(frozen=True)
class Look:
    """What is kept of a photo to compare it with others."""

    file: Path
    content: str
    """Digest of its pixels."""
    bits: np.ndarray  # (63,), bool
    thumbnail: np.ndarray  # (1024,), mean 0, length 1
    mirrored_bits: np.ndarray
    """The same of its mirror image, and so the thumbnail."""
    mirrored_thumbnail: np.ndarray


@dataclass(frozen=True)
class Repeat:
    """A photo, and the first one before it that it repeats."""

    kind: str
    """duplicate, near-duplicate or mirrored."""
    file: Path
    of: Path


def look_of(photo: DecodedPhoto) -> Look:
    """Look at a decoded photo."""
    small = photo.image.convert("L").resize((32, 32), Image.Resampling.BOX)
    levels = np.asarray(small, dtype=np.float64)
    content = hashlib.sha256(f"{photo.size} ".encode() + photo.image.tobytes()).hexdigest()
    return Look(photo.path, content, *_signature(levels), *_signature(levels[:, ::-1]))


def _signature(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perceptual hash and thumbnail of grey levels (32, 32)."""
    waves = (_cosines() @ levels @ _cosines().T).ravel()[1:]  # without the mean
    flat = levels.ravel() - levels.mean()
    return waves > np.median(waves), flat / max(float(np.linalg.norm(flat)), 1e-9)


@cache
def _cosines() -> np.ndarray:
    """(8, 32): the lowest waves of the cosine transform, whose signs are the perceptual hash."""
    places = (np.arange(32) + 0.5) * np.pi / 32
    return np.cos(np.arange(8)[:, None] * places)


def find_repeats(looks: Sequence[Look]) -> Iterator[Repeat]:
    """Each photo at most once, with the first that it repeats."""
    for number, look in enumerate(looks):
        for earlier in looks[:number]:
            if look.content == earlier.content:
                kind = "duplicate"
            elif _are_near(look.bits, look.thumbnail, earlier):
                kind = "near-duplicate"
            elif _are_near(look.mirrored_bits, look.mirrored_thumbnail, earlier):
                kind = "mirrored"
            else:
                continue
            yield Repeat(kind, look.file, earlier.file)
            break


def _are_near(bits: np.ndarray, thumbnail: np.ndarray, other: Look) -> bool:
    different = int((bits != other.bits).sum())
    return different <= NEAR_BITS and float(thumbnail @ other.thumbnail) >= NEAR_CORRELATION
