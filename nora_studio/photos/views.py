"""Training images from photos: how each is cropped and mirrored, and SDXL's conditioning on it."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL import __version__ as pillow_version
from torch import Tensor

from nora_studio.photos.buckets import Size, bucket_sizes, bucket_step, covering_scale, nearest_size
from nora_studio.photos.companions import find_mask_files
from nora_studio.photos.images import DecodedPhoto, decode_photo
from nora_studio.photos.masks import loss_mask, read_mask, subject_share

ZOOM = 1.2
"""Random crops show at least 1 / 1.2 of what the centre crop shows, along each side."""
UPSCALE_LIMIT = 1.5
"""Photos that are scaled up by more than this are soft, and softness would be learned."""
# Fractional parts of multiples of quadratic irrationals (a Kronecker sequence) are evenly spread;
# one for each of zoom, top and left, so that a few crops reach every side.
_SPREAD = (3**0.5 - 1, 2**0.5 - 1, (5**0.5 - 1) / 2)


@dataclass(frozen=True)
class Framing:
    """How photos become training images."""

    resolution: int
    """Square root of the images' area, in pixels."""
    latent_scale: int = 8
    """Pixels per side of one latent."""
    buckets: bool = False
    """Whether to use sizes near the photos' own shapes; otherwise all images are squares."""
    crops: int = 1
    """Number of different crops of each photo; the first is the centre."""
    mirrored: bool = False
    """Whether to add the mirror image of each crop."""
    masks: str = "none"
    """Where a photo's mask is: "files", "alpha" or "none"."""
    mask_floor: float = 0.1
    """Loss weight where a mask is black."""

    @property
    def sizes(self) -> list[Size]:
        """The images' possible sizes."""
        if not self.buckets:
            return [(self.resolution, self.resolution)]
        step = bucket_step(self.resolution, self.latent_scale)
        return bucket_sizes(self.resolution, step)


@dataclass(frozen=True)
class Frame:
    """Where one training image is cut from its photo."""

    scaled: Size
    """Size to which the photo is scaled before it is cut."""
    top: int
    left: int
    """Corner of the crop in the scaled photo, before it is mirrored; pixels."""
    size: Size
    mirrored: bool = False

    @property
    def crop_top_left(self) -> tuple[int, int]:
        """(top, left) of the crop in the scaled photo, in the mirrored one if it is mirrored."""
        right = self.scaled[1] - self.left - self.size[1]
        return self.top, right if self.mirrored else self.left

    def cut(self, image: Image.Image) -> Image.Image:
        """Scale, cut and mirror an image."""
        height, width = self.scaled
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        box = (self.left, self.top, self.left + self.size[1], self.top + self.size[0])
        image = image.crop(box)
        return ImageOps.mirror(image) if self.mirrored else image


@dataclass(frozen=True)
class TrainingImage:
    """One training image, computed when its pixels are read."""

    source: DecodedPhoto
    frame: Frame
    index: int = 0
    """Number of the photo in its folder."""
    crop: int = 0
    """Number of the crop of that photo."""
    mask: Image.Image | None = None
    """Mask of the whole photo, white where the subject is."""
    floor: float = 0.1
    latent_scale: int = 8
    digest: str = ""
    """Digest of the whole photo's decoded pixels."""

    @property
    def path(self) -> Path:
        """The photo's file."""
        return self.source.path

    @property
    def original_size(self) -> Size:
        """(height, width) in pixels before scaling, after EXIF rotation."""
        return self.source.size

    @property
    def crop_top_left(self) -> tuple[int, int]:
        """(top, left) of the crop in the scaled photo, in pixels."""
        return self.frame.crop_top_left

    @property
    def time_ids(self) -> list[float]:
        """SDXL's micro-conditioning (arXiv 2307.01952, 2.2): original size, crop, target size."""
        return [float(v) for v in (*self.original_size, *self.crop_top_left, *self.frame.size)]

    @cached_property
    def pixels(self) -> Tensor:
        """(3, height, width), float32 in [-1, 1]."""
        array = np.array(self.frame.cut(self.source.image), dtype=np.float32)
        return (torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1.0).contiguous()

    @property
    def loss_mask(self) -> Tensor:
        """(1, height / latent_scale, width / latent_scale): mask for the loss, 1 on average.

        Raises:
            StudioError: this crop shows nothing of the subject.
        """
        height, width = (side // self.latent_scale for side in self.frame.size)
        if self.mask is None:
            return torch.ones(1, height, width)
        return loss_mask(self.frame.cut(self.mask), self.floor, (height, width), self.path)

    @property
    def key(self) -> str:
        """A key for the pixels, known without computing them."""
        return f"{self.digest} {self.frame} pillow {pillow_version}"


def photo_views(files: Iterable[Path], framing: Framing) -> Iterator[TrainingImage]:
    """Yield the training images of photos, photo by photo: its crops, then these mirrored.

    One photo is in memory at a time, so use an image before taking the next.

    Raises:
        StudioError: a photo or mask cannot be used.
    """
    files = list(files)
    sizes = framing.sizes
    masks = find_mask_files(files).of if files and framing.masks == "files" else {}
    for index, file in enumerate(files):
        source = decode_photo(file)
        mask = read_mask(source, framing.masks, masks.get(file))
        frames = frames_of(source.size, nearest_size(source.size, sizes), framing.crops, mask)
        if framing.mirrored:
            frames += [replace(frame, mirrored=True) for frame in frames]
        digest = _digest(source)
        count = len(frames) // (2 if framing.mirrored else 1)
        for number, frame in enumerate(frames):
            yield TrainingImage(
                source=source,
                frame=frame,
                index=index,
                crop=number % count,
                mask=mask,
                floor=framing.mask_floor,
                latent_scale=framing.latent_scale,
                digest=digest,
            )


def photos_of_size(
    files: Iterable[Path], size: Size, latent_scale: int = 8
) -> Iterator[TrainingImage]:
    """Yield the centre crop of each photo at one size, with one photo in memory at a time."""
    for index, file in enumerate(files):
        source = decode_photo(file)
        frame = frames_of(source.size, size)[0]
        digest = _digest(source)
        yield TrainingImage(source, frame, index, latent_scale=latent_scale, digest=digest)


def _digest(source: DecodedPhoto) -> str:
    """Return a digest of a whole photo's decoded pixels."""
    return hashlib.sha256(f"{source.size} ".encode() + source.image.tobytes()).hexdigest()


def prepare_photo(file: Path, resolution: int) -> TrainingImage:
    """Return the centre square of one photo at a resolution."""
    return next(photo_views([file], Framing(resolution)))


def frames_of(
    original: Size, size: Size, crops: int = 1, mask: Image.Image | None = None
) -> list[Frame]:
    """Return at most `crops` different frames of a photo, the centre first; always the same ones.

    The others are spread evenly over the photo and zoom in by up to `ZOOM`, or less if that would
    scale a small photo up by more than `UPSCALE_LIMIT`. With a mask, they keep at least half of its
    white.
    """
    frames = [_frame(original, size, 1.0, 0.5, 0.5)]
    cover = covering_scale(original, size)
    zoom = max(1.0, min(ZOOM, UPSCALE_LIMIT / cover))
    for number in range(1, 8 * crops):
        if len(frames) >= crops:
            break
        closer, down, right = (number * step % 1 for step in _SPREAD)
        frame = _frame(original, size, 1 + (zoom - 1) * closer, down, right)
        if frame not in frames and (mask is None or _keeps_half(frame, mask)):
            frames.append(frame)
    return frames


def _frame(original: Size, size: Size, zoom: float, down: float, right: float) -> Frame:
    scale = covering_scale(original, size) * zoom
    height, width = (
        max(least, round(side * scale)) for side, least in zip(original, size, strict=True)
    )
    # Rounded down, so that crops stay the same as in earlier versions.
    top, left = int((height - size[0]) * down), int((width - size[1]) * right)
    return Frame((height, width), top, left, size)


def _keeps_half(frame: Frame, mask: Image.Image) -> bool:
    height, width = frame.scaled
    box = (
        frame.left / width,
        frame.top / height,
        (frame.left + frame.size[1]) / width,
        (frame.top + frame.size[0]) / height,
    )
    return subject_share(mask, box) >= 0.5
