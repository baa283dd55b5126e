"""Random resized crops: boxes sampled from a generator, and the resampling of whole batches."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

SCALE = (0.08, 1.0)
"""Share of an image's area that a crop has."""
RATIO = (3 / 4, 4 / 3)
"""Width of a crop over its height."""
TRIES = 10
_CUBIC = -0.5  # The parameter of PIL's and torch's antialiased bicubic filter.


def sample_boxes(
    sizes: Tensor,  # (batch, 2): height and width of each image
    generator: Generator,
) -> Tensor:  # (batch, 4), int64: top, left, height, width
    """Sample boxes as torchvision's `RandomResizedCrop` does, from a generator that can be saved.

    Ten tries for a box within the image, then a centre crop with the nearest ratio, as there. All
    tries are sampled at once, so that the generator's state does not depend on their outcome.
    """
    batches = torch.rand(len(sizes), TRIES, 4, generator=generator, dtype=torch.float64).tolist()
    boxes = [_box(h, w, tries) for (h, w), tries in zip(sizes.tolist(), batches, strict=True)]
    return torch.tensor(boxes, dtype=torch.int64)


def _box(height: int, width: int, tries: Sequence[Sequence[float]]) -> tuple[int, int, int, int]:
    for share, shape, down, right in tries:
        area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * share)
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        ratio = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    h = min(height, round(width / RATIO[0]))
    w = min(width, round(height * RATIO[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def middle_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the box of an image's central square, which resizing and centre-cropping keep."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def resample(
    pictures: Tensor,  # (batch, 3, height, width), any dtype
    boxes: Tensor,  # (batch, 4): top, left, height, width
    size: int,
    flips: Tensor | None = None,  # (batch,), bool: mirrored afterwards
) -> Tensor:  # (batch, 3, size, size), float32
    """Crop a box from each image and resize it, bicubic and antialiased, as PIL and torch do.

    The filter is separable, so the whole batch takes two batched matrix products. Values are
    clamped to 0-255.
    """
    height, width = pictures.shape[-2:]
    boxes = boxes.to(pictures.device)
    down = _filters(boxes[:, 0], boxes[:, 2], height, size)
    across = _filters(boxes[:, 1], boxes[:, 3], width, size)
    if flips is not None:
        mirrored = flips.to(pictures.device).view(-1, 1, 1)
        across = torch.where(mirrored, across.flip(1), across)
    with torch.autocast(pictures.device.type, enabled=False):  # Half precision loses levels.
        resized = down[:, None] @ pictures.float() @ across[:, None].transpose(-1, -2)
    return resized.clamp(0, 255)


def _filters(starts: Tensor, lengths: Tensor, pixels: int, size: int) -> Tensor:
    """Return the weights of a row's pixels in those of the resized row: (batch, size, pixels)."""
    step = lengths.float() / size
    support = step.clamp(min=1.0)[:, None, None]
    places = torch.arange(size, device=starts.device) + 0.5
    centers = (starts[:, None] + step[:, None] * places)[..., None]
    columns = torch.arange(pixels, device=starts.device)
    weights = _cubic(((columns + 0.5 - centers) / support).abs())
    first, last = starts[:, None, None], (starts + lengths)[:, None, None]
    weights = weights * ((columns >= first) & (columns < last))
    return weights / weights.sum(-1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Return Keys' cubic convolution kernel at a distance (IEEE ASSP 29(6), 1981)."""
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
