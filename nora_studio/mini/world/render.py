"""Render scenes to pictures, a whole batch at a time, on any device."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nora_studio.mini.world.animals import ANIMAL_KINDS
from nora_studio.mini.world.extras import WORN, draw_emblem
from nora_studio.mini.world.objects import GROUND, THINGS, Kind, Paint
from nora_studio.mini.world.pen import Pen, patterned_surface
from nora_studio.mini.world.places import PAINTERS
from nora_studio.mini.world.scenery import Scenery
from nora_studio.mini.world.scenes import VIEW_SIZE, Scenes
from nora_studio.mini.world.vocabulary import ACCESSORIES, CLASSES, COLORS, EMBLEMS, PLACES, STYLES

KINDS: dict[str, Kind] = THINGS | ANIMAL_KINDS


@torch.no_grad()
def render(
    scenes: Scenes,
    size: int = 256,
    device: torch.device | str = "cpu",
    kinds: Mapping[str, Kind] = KINDS,
    classes: Sequence[str] = CLASSES,
) -> Tensor:  # (count, 3, size, size)
    """Render every scene as a square picture in [0, 1], `size` pixels wide.

    Args:
        kinds: How to draw each class.
        classes: The class names that the scenes' `kind` indexes.

    On one device the same scenes give the same pixels. All scenes of a class or a place are drawn
    together, so memory grows with their number: about 6 MB each at 256 pixels.
    """
    scenes = scenes.to(device)
    canvas, floor = _draw_places(scenes, size)
    swims = classes.index("fish") if "fish" in classes else -1
    pens = _place_objects(scenes, canvas, floor, swims)
    surfaces = [_tint(scenes, "main_color", 14), _tint(scenes, "second_color", 17)]
    accent = _tint(scenes, "accent_color", 20)
    for index, name in _group_by_name(scenes.kind, classes):
        pen, chosen = pens.select(index), scenes.select(index)
        _draw_object(
            kinds[name], pen, chosen, surfaces[0][index], surfaces[1][index], accent[index]
        )
        pens.paste(index, pen)
    return _apply_styles(pens.canvas.clamp_(0, 1), scenes.style)


def _group_by_name(values: Tensor, names: Sequence[str]) -> list[tuple[Tensor, str]]:
    """Return the names that occur, each with the indices of its scenes."""
    found = [((values == i).nonzero()[:, 0], name) for i, name in enumerate(names)]
    return [(index, name) for index, name in found if len(index)]


def _palette(scenes: Scenes, indices: Tensor) -> Tensor:
    return scenes.view.new_tensor(list(COLORS.values()))[indices]


def _tint(scenes: Scenes, field: str, first: int) -> Tensor:
    """Return the named colour with the individual's small deviation, (count, 3, 1, 1)."""
    own = scenes.identity[:, first : first + 3] - 0.5
    color = _palette(scenes, getattr(scenes, field)) * (1 + 0.10 * own[:, :1]) + 0.10 * own
    return color.clamp(0.03, 1).view(-1, 3, 1, 1)


def _draw_places(scenes: Scenes, size: int) -> tuple[Tensor, Tensor]:
    """Paint scenery (count, 3, size, size); return it and where its floor begins (count, 1, 1)."""
    count, pixel = len(scenes), 2.0 / size
    canvas = scenes.view.new_empty(count, 3, size, size)
    floor = scenes.view.new_empty(count, 1, 1)
    x, y = _screen(scenes.view, size)
    background = (_palette(scenes, scenes.background) * 0.9 + 0.06).view(-1, 3, 1, 1)
    for index, name in _group_by_name(scenes.place, PLACES):
        shape = (len(index), size, size)
        scenery = Scenery(
            x.expand(shape), y.expand(shape), pixel, scenes.view[index], background[index]
        )
        canvas[index], floor[index] = PAINTERS[name](scenery)
    return canvas, floor


def _screen(like: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the pixel centres: x (1, 1, size) and y (1, size, 1), both in [-1, 1]."""
    axis = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * (2.0 / size) - 1
    return axis.view(1, 1, size), axis.view(1, size, 1)


def _place_objects(scenes: Scenes, canvas: Tensor, floor: Tensor, swims: int) -> Pen:
    """Paint the contact shadows and return a pen in every object's own coordinates.

    Args:
        swims: Index of the kind that floats where there is water, or -1.
    """

    def number(i: int) -> Tensor:
        return scenes.view[:, i].view(-1, 1, 1)

    size = canvas.shape[-1]
    x, y = _screen(canvas, size)
    scale = 0.54 + 0.24 * number(VIEW_SIZE)
    center_x = 0.55 * (number(3) - 0.5)
    feet = (floor + 0.22 + 0.42 * number(4)).clamp(0.35, 0.88)
    is_swimming = (scenes.kind == swims) & (scenes.place == PLACES.index("underwater"))
    is_swimming = is_swimming.view(-1, 1, 1)
    feet = torch.where(is_swimming, feet - 0.35, feet)
    reach_x, reach_y = (x - center_x) / (0.62 * scale), (y - feet) / (0.10 * scale + 0.02)
    shadow = 0.38 * torch.exp(-1.6 * (reach_x**2 + reach_y**2))
    canvas = torch.where(is_swimming[:, None], canvas, canvas * (1 - shadow[:, None]))
    tilt = 0.35 * (number(5) - 0.5)
    side = torch.where(number(6) < 0.5, -1.0, 1.0)
    dx, dy = x - center_x, y - (feet - GROUND * scale)
    own_x = side * (dx * torch.cos(tilt) + dy * torch.sin(tilt)) / scale
    own_y = (dy * torch.cos(tilt) - dx * torch.sin(tilt)) / scale
    light = (side * (2 * number(7) - 1), torch.full_like(side, -0.7))
    return Pen(canvas, own_x, own_y, scale, 2.0 / size, light)


def _draw_object(
    kind: Kind, pen: Pen, scenes: Scenes, main: Tensor, second: Tensor, accent: Tensor
) -> None:
    """Draw scenes of one kind, then their emblems and accessories."""
    surface = patterned_surface(
        scenes.pattern,
        main,
        second,
        pen.x,
        pen.y,
        scenes.identity,
        kind.middle,
        pen.pixel / pen.scale,
    )
    anchors = kind.draw(pen, Paint(main, second, surface, scenes.identity))
    for index, name in _group_by_name(scenes.emblem, EMBLEMS):
        if name != "none":
            some = pen.select(index)
            draw_emblem(name, some, anchors.select(index), accent[index])
            pen.paste(index, some)
    for index, name in _group_by_name(scenes.accessory, ACCESSORIES):
        if name != "none":
            some = pen.select(index)
            WORN[name](some, anchors.select(index), accent[index])
            pen.paste(index, some)


def _apply_styles(pictures: Tensor, style: Tensor) -> Tensor:
    for index, name in _group_by_name(style, STYLES):
        if name == "sketch":
            pictures[index] = _sketch(pictures[index])
        elif name == "monochrome":
            weights = pictures.new_tensor([0.3, 0.59, 0.11]).view(1, 3, 1, 1)
            pictures[index] = (pictures[index] * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    return pictures


def _sketch(pictures: Tensor) -> Tensor:
    """Draw pencil lines where brightness changes, on slightly shaded paper."""
    size = pictures.shape[-1]
    gray = pictures.mean(1, keepdim=True)
    reach = max(1, size // 128)
    soft = F.avg_pool2d(gray, 2 * reach + 1, 1, reach, count_include_pad=False)
    across = F.pad(soft[..., 1:] - soft[..., :-1], (0, 1))
    down = F.pad(soft[..., 1:, :] - soft[..., :-1, :], (0, 0, 0, 1))
    lines = 5 * torch.sqrt(across**2 + down**2) * size / 128
    paper = 0.97 - lines.clamp(0, 0.8) - 0.10 * (1 - gray)
    return paper.clamp(0, 1).expand(-1, 3, -1, -1)
