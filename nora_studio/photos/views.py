"""Photos -> training pictures: where each is cut, mirrored or not, and SDXL's words for that."""

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

from nora_studio.photos.beside import masks_beside
from nora_studio.photos.buckets import Size, bucket_sizes, bucket_step, covering_scale, nearest_size
from nora_studio.photos.images import DecodedPhoto, decode_photo
from nora_studio.photos.masks import loss_weights, read_mask, subject_share

ZOOM = 1.2
"""Random crops show at least 1 / 1.2 of what the centre crop shows, along each side."""
UPSCALE_LIMIT = 1.5
"""Photos scaled up by more than this look soft, and soft is what is learned."""
# Fractional parts of multiples of quadratic irrationals (a Kronecker sequence) spread evenly, for
# zoom, top and left each: few crops, and yet they reach every side.
_SPREAD = (3**0.5 - 1, 2**0.5 - 1, (5**0.5 - 1) / 2)


@dataclass(frozen=True)
class Framing:
    """How photos become training pictures."""

    resolution: int
    """Square root of the pictures' area, pixels."""
    latent_scale: int = 8
    """Pixels to a side of one latent."""
    buckets: bool = False
    """Shapes near the photos' own, or squares for all."""
    crops: int = 1
    """Different crops of each photo; the first is the centre."""
    mirrored: bool = False
    """Whether each crop comes mirrored too."""
    masks: str = "none"
    """Where a photo's mask is: "files", "alpha" or "none"."""
    mask_floor: float = 0.1
    """Loss weight where a mask is black."""

    @property
    def sizes(self) -> list[Size]:
        """The pictures' possible sizes."""
        if not self.buckets:
            return [(self.resolution, self.resolution)]
        step = bucket_step(self.resolution, self.latent_scale)
        return bucket_sizes(self.resolution, step)


@dataclass(frozen=True)
class Frame:
    """Where one picture is cut from its photo."""

    scaled: Size
    """The photo's size when it is cut."""
    top: int
    left: int
    """Corner of the crop in the scaled photo, before it is mirrored; pixels."""
    size: Size
    mirrored: bool = False

    @property
    def crop_top_left(self) -> tuple[int, int]:
        """Corner of the crop in the scaled photo as it is seen: mirrored, if it is."""
        right = self.scaled[1] - self.left - self.size[1]
        return self.top, right if self.mirrored else self.left

    def cut(self, image: Image.Image) -> Image.Image:
        """The picture: scaled, cut, mirrored."""
        height, width = self.scaled
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        box = (self.left, self.top, self.left + self.size[1], self.top + self.size[0])
        image = image.crop(box)
        return ImageOps.mirror(image) if self.mirrored else image


@dataclass(frozen=True)
class Photo:
    """One training picture, rendered when it is asked for."""

    source: DecodedPhoto
    frame: Frame
    index: int = 0
    """Which photo of the folder it is from."""
    crop: int = 0
    """Which of that photo's crops it is."""
    mask: Image.Image | None = None
    """Of the whole photo, white where the subject is."""
    floor: float = 0.1
    latent_scale: int = 8
    digest: str = ""
    """Of the whole photo's decoded pixels."""

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def original_size(self) -> Size:
        """(height, width) in pixels before scaling, after EXIF rotation."""
        return self.source.size

    @property
    def crop_top_left(self) -> tuple[int, int]:
        """(top, left) of the crop in the scaled picture, in pixels."""
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
    def weights(self) -> Tensor:
        """(1, height / latent_scale, width / latent_scale): loss weights, 1 on average.

        Raises:
            StudioError: the mask leaves nothing of the subject in this crop.
        """
        height, width = (side // self.latent_scale for side in self.frame.size)
        if self.mask is None:
            return torch.ones(1, height, width)
        return loss_weights(self.frame.cut(self.mask), self.floor, (height, width), self.path)

    @property
    def key(self) -> str:
        """What the pixels are, without rendering them."""
        return f"{self.digest} {self.frame} pillow {pillow_version}"


def photo_views(files: Iterable[Path], framing: Framing) -> Iterator[Photo]:
    """Every training picture of a folder, photo by photo: its crops, then the same mirrored.

    One photo is in memory at a time, so take what is needed of a picture before the next.

    Raises:
        StudioError: a photo or mask cannot be used.
    """
    files = list(files)
    sizes = framing.sizes
    masks = masks_beside(files).of if files and framing.masks == "files" else {}
    for index, file in enumerate(files):
        source = decode_photo(file)
        mask = read_mask(source, framing.masks, masks.get(file))
        frames = frames_of(source.size, nearest_size(source.size, sizes), framing.crops, mask)
        if framing.mirrored:
            frames += [replace(frame, mirrored=True) for frame in frames]
        digest = _digest(source)
        count = len(frames) // (2 if framing.mirrored else 1)
        for number, frame in enumerate(frames):
            yield Photo(
                source=source,
                frame=frame,
                index=index,
                crop=number % count,
                mask=mask,
                floor=framing.mask_floor,
                latent_scale=framing.latent_scale,
                digest=digest,
            )


def photos_of_size(files: Iterable[Path], size: Size, latent_scale: int = 8) -> Iterator[Photo]:
    """Each photo's middle at one size, whatever its aspect, one in memory at a time."""
    for index, file in enumerate(files):
        source = decode_photo(file)
        frame = frames_of(source.size, size)[0]
        digest = _digest(source)
        yield Photo(source, frame, index, latent_scale=latent_scale, digest=digest)


def _digest(source: DecodedPhoto) -> str:
    """Of a whole photo's decoded pixels."""
    return hashlib.sha256(f"{source.size} ".encode() + source.image.tobytes()).hexdigest()


def prepare_photo(file: Path, resolution: int) -> Photo:
    """One photo's centre square at a resolution."""
    return next(photo_views([file], Framing(resolution)))


def frames_of(
    original: Size, size: Size, crops: int = 1, mask: Image.Image | None = None
) -> list[Frame]:
    """At most `crops` different frames of a photo, the centre first, always the same ones.

    Further ones lie evenly over the photo and zoom in by up to `ZOOM`, less where that would
    scale a small photo up beyond `UPSCALE_LIMIT`. With a mask, they keep half of it or more.
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
    # Down to the pixel that the halves of odd rests have always been cut at.
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
