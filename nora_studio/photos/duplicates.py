"""Detection of photos that are the same as another one, nearly the same, or its mirror image."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from nora_studio.photos.images import DecodedPhoto

NEAR_BITS = 10
"""Most bits, of 63, in which the perceptual hashes of near-duplicates differ."""
NEAR_CORRELATION = 0.8
"""Least correlation of the thumbnails of near-duplicates. Different photos do not meet both."""


@dataclass(frozen=True)
class PhotoSignature:
    """Hashes and thumbnails of a photo, to compare it with others."""

    file: Path
    content: str
    """Digest of its pixels."""
    bits: np.ndarray  # (63,), bool
    thumbnail: np.ndarray  # (1024,), mean 0, length 1
    mirrored_bits: np.ndarray
    """`bits` of the mirror image."""
    mirrored_thumbnail: np.ndarray
    """`thumbnail` of the mirror image."""


@dataclass(frozen=True)
class Duplicate:
    """A photo, and the first earlier one that it is a duplicate of."""

    kind: str
    """duplicate, near-duplicate or mirrored."""
    file: Path
    original: Path
    """The earlier photo."""


def signature_of(photo: DecodedPhoto) -> PhotoSignature:
    """Compute the signature of a decoded photo."""
    small = photo.image.convert("L").resize((32, 32), Image.Resampling.BOX)
    levels = np.asarray(small, dtype=np.float64)
    content = hashlib.sha256(f"{photo.size} ".encode() + photo.image.tobytes()).hexdigest()
    return PhotoSignature(photo.path, content, *_signature(levels), *_signature(levels[:, ::-1]))


def _signature(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the perceptual hash and the thumbnail of grey levels (32, 32)."""
    waves = (_cosines() @ levels @ _cosines().T).ravel()[1:]  # Without the mean.
    flat = levels.ravel() - levels.mean()
    return waves > np.median(waves), flat / max(float(np.linalg.norm(flat)), 1e-9)


@cache
def _cosines() -> np.ndarray:
    """Return the lowest basis functions of the cosine transform, (8, 32), for the hash."""
    places = (np.arange(32) + 0.5) * np.pi / 32
    return np.cos(np.arange(8)[:, None] * places)


def find_duplicates(signatures: Sequence[PhotoSignature]) -> Iterator[Duplicate]:
    """Yield each duplicate once, with the first photo that it is a duplicate of."""
    for number, signature in enumerate(signatures):
        for earlier in signatures[:number]:
            if signature.content == earlier.content:
                kind = "duplicate"
            elif _are_near(signature.bits, signature.thumbnail, earlier):
                kind = "near-duplicate"
            elif _are_near(signature.mirrored_bits, signature.mirrored_thumbnail, earlier):
                kind = "mirrored"
            else:
                continue
            yield Duplicate(kind, signature.file, earlier.file)
            break


def _are_near(bits: np.ndarray, thumbnail: np.ndarray, other: PhotoSignature) -> bool:
    different = int((bits != other.bits).sum())
    return different <= NEAR_BITS and float(thumbnail @ other.thumbnail) >= NEAR_CORRELATION
