"""The training pictures: rendered on the device, with SDXL's micro-conditioning."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nora_studio.mini.pretrain.architecture import IMAGE_SIZE
from nora_studio.mini.pretrain.progress import Progress
from nora_studio.mini.world import Scenes, render, sample_scenes

CHUNK = 2000
"""Scenes that are sampled, rendered and captioned together; rendering takes about 6 MB each."""

LOW_RESOLUTIONS = (64, 96, 128, 192)
LOW_RESOLUTION_SHARE = 0.08
CROP_SHARE = 0.08


@dataclass(frozen=True)
class Chunk:
    """A part of the training pictures."""

    start: int
    """Index of its first picture in the whole set."""
    scenes: Scenes
    pixels: Tensor
    """(pictures, 3, 256, 256) uint8, on the device."""
    time_ids: Tensor
    """(pictures, 6) float32, on the device: original size, crop corner, target size."""


@dataclass(frozen=True)
class Pictures:
    """Pictures with their scenes."""

    scenes: Scenes
    pixels: Tensor
    """(count, 3, 256, 256) uint8, on the device."""

    def __len__(self) -> int:
        return len(self.pixels)


def chunk_scenes(count: int, seed: int) -> Iterator[tuple[int, Scenes]]:
    """Yield (index of the first scene, scenes); captions are written from the same chunks."""
    for number, start in enumerate(range(0, count, CHUNK)):
        yield start, sample_scenes(min(CHUNK, count - start), seed * 100_003 + number)


def draw_chunks(count: int, seed: int, device: str, progress: Progress) -> Iterator[Chunk]:
    """Render `count` pictures, a chunk at a time."""
    generator = torch.Generator().manual_seed(seed)
    for start, scenes in chunk_scenes(count, seed):
        drawn = render(scenes, IMAGE_SIZE, device)
        drawn, time_ids = vary_originals(drawn, generator)
        pixels = (drawn.clamp(0, 1) * 255).round().byte()
        yield Chunk(start, scenes, pixels, time_ids)
        if progress.is_due():
            progress.say(f"drew {start + len(scenes)} of {count} pictures")


def draw_pictures(count: int, seed: int, device: str, progress: Progress) -> Pictures:
    """Render `count` pictures and keep them all on the device, 196,608 bytes each."""
    pixels = torch.empty(count, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8, device=device)
    scenes = []
    for chunk in draw_chunks(count, seed, device, progress):
        pixels[chunk.start : chunk.start + len(chunk.pixels)] = chunk.pixels
        scenes.append(chunk.scenes)
    return Pictures(join_scenes(scenes), pixels)


def vary_originals(
    drawn: Tensor,  # (pictures, 3, size, size)
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:  # same shape, (pictures, 6)
    """Scale some pictures down and back, crop others, and record it in the time ids.

    Source: SDXL's micro-conditioning, arXiv:2307.01952, section 2.2.
    """
    count, size, device = len(drawn), drawn.shape[-1], drawn.device
    whole = torch.tensor([size, size, 0, 0, size, size], device=device, dtype=torch.float32)
    time_ids = whole.repeat(count, 1)
    lot = torch.rand(count, generator=generator)
    for i, resolution in enumerate(LOW_RESOLUTIONS):
        share = LOW_RESOLUTION_SHARE / len(LOW_RESOLUTIONS)
        index = ((lot >= i * share) & (lot < (i + 1) * share)).nonzero()[:, 0].to(device)
        if len(index):
            small = F.interpolate(drawn[index], (resolution, resolution), mode="area")
            drawn[index] = F.interpolate(small, (size, size), mode="bilinear")
            time_ids[index, :2] = float(resolution)
    large = size * 5 // 4
    for index in (lot > 1 - CROP_SHARE).nonzero()[:, 0].to(device).split(32):  # a corner for 32
        top, left = torch.randint(large - size + 1, (2,), generator=generator).tolist()
        enlarged = F.interpolate(drawn[index], (large, large), mode="bilinear")
        drawn[index] = enlarged[..., top : top + size, left : left + size]
        time_ids[index] = torch.tensor(
            [large, large, top, left, size, size], device=device, dtype=torch.float32
        )
    return drawn, time_ids


def noise_pictures(count: int, size: int, device: str) -> Tensor:  # (count, 3, size, size) uint8
    """Return fractal noise under overlapping discs, to train the VAE beyond the toy world."""
    picture = torch.zeros(count, 3, size, size, device=device)
    for cells in (2, 4, 8, 16, 32, 64):
        gray = torch.randn(count, 1, cells, cells, device=device)
        field = gray + 0.5 * torch.randn(count, 3, cells, cells, device=device)
        roughness = 0.6 + 0.5 * torch.rand(count, 1, 1, 1, device=device)
        picture += F.interpolate(field, (size, size), mode="bicubic") / cells**roughness
    picture = (0.28 * picture + torch.rand(count, 3, 1, 1, device=device)).clamp(0, 1)
    axis = torch.linspace(-1, 1, size, device=device)
    for _ in range(24):
        lot = torch.rand(count, 7, 1, 1, device=device)
        radius = 0.5 * lot[:, 2] ** 3 + 0.04
        across = axis.view(1, 1, size) - (2 * lot[:, 0] - 1)
        along = (axis.view(1, size, 1) - (2 * lot[:, 1] - 1)) / (0.4 + lot[:, 3])
        inside = (0.5 - ((across**2 + along**2).sqrt() - radius) * size / 2).clamp(0, 1)
        leaf = 0.8 * lot[:, 4:7] + 0.2 * picture
        picture = picture + (leaf - picture) * inside[:, None]
    return (picture.clamp(0, 1) * 255).round().byte()


def join_scenes(parts: list[Scenes]) -> Scenes:
    """Join the scenes of several chunks."""
    return Scenes(
        **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Scenes)}
    )


def save_grid(pictures: Tensor, columns: int, path: Path) -> None:
    """Write (count, 3, height, width) pictures in [0, 1] as one PNG or JPEG, row by row."""
    count, _, height, width = pictures.shape
    pixels = (pictures.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    rows = -(-count // columns)
    sheet = Image.new("RGB", (columns * (width + 2), rows * (height + 2)), "white")
    for i in range(count):
        corner = (i % columns * (width + 2), i // columns * (height + 2))
        sheet.paste(Image.fromarray(pixels[i].permute(1, 2, 0).numpy()), corner)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
