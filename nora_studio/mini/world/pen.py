"""A painter's algorithm on a batch of canvases, and patterned surfaces."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nora_studio.mini.world.shapes import Number
from nora_studio.mini.world.vocabulary import PATTERNS, RGB

Color = Tensor | RGB
INK, WHITE, PINK = (0.08, 0.08, 0.09), (0.97, 0.97, 0.97), (0.95, 0.55, 0.60)


@dataclass
class Pen:
    """A pen that fills distance fields on `canvas`, each over the last, with antialiased edges."""

    canvas: Tensor
    """(count, 3, size, size)."""
    x: Tensor
    """(count, size, size): coordinates of each pixel, in the object's own space."""
    y: Tensor
    scale: Number
    """Screen units per unit of `x`, (count, 1, 1)."""
    pixel: float
    """Width of a pixel in screen units."""
    light: tuple[Tensor, Tensor] | None = None
    """Direction towards the lamp, each (count, 1, 1)."""

    def color(self, rgb: Color) -> Tensor:
        """Return a colour as a (1, 3, 1, 1) tensor; return a tensor unchanged."""
        if isinstance(rgb, Tensor):
            return rgb
        return self.canvas.new_tensor(rgb).view(1, 3, 1, 1)

    def select(self, index: Tensor) -> "Pen":
        """Return a pen on copies of the canvases at `index`; `paste` copies them back."""
        light = None if self.light is None else (self.light[0][index], self.light[1][index])
        scale = self.scale[index] if isinstance(self.scale, Tensor) else self.scale
        canvas, x, y = self.canvas[index], self.x[index], self.y[index]
        return Pen(canvas, x, y, scale, self.pixel, light)

    def paste(self, index: Tensor, pen: "Pen") -> None:
        """Copy back canvases that `select` copied."""
        self.canvas[index] = pen.canvas

    def coverage(self, distance: Tensor, grow: float = 0.0) -> Tensor:
        """Return the share of each pixel inside the shape grown by `grow`, (count, size, size)."""
        return (0.5 - (distance - grow) * self.scale / self.pixel).clamp(0, 1)

    def flat(self, distance: Tensor, color: Color, opacity: float = 1.0) -> None:
        """Fill a shape with one colour."""
        mask = (self.coverage(distance) * opacity)[:, None]
        self.canvas = self.canvas + (self.color(color) - self.canvas) * mask

    def part(
        self,
        distance: Tensor,
        color: Color,
        outline: float = 0.028,
        shade: float = 1.0,
        depth: float = 0.22,
    ) -> None:
        """Fill a shape that looks solid: darker towards the rim, lit from one side, outlined.

        Args:
            distance: (count, size, size).
            color: One colour, or a whole surface (count, 3, size, size).
            outline: Half width of the ink line.
            shade: 0 for flat things, 1 for round ones.
            depth: How far from the rim the darkening reaches.
        """
        inside = (-distance / depth).clamp(0, 1)
        brightness = 1 - shade * 0.30 * (1 - inside) ** 2
        if self.light is not None:
            lit = self.light[0] * self.x + self.light[1] * self.y
            brightness = brightness * (1.02 + shade * 0.16 * lit)
        paint = (self.color(color) * brightness[:, None]).clamp(0, 1)
        paint = paint - 0.78 * paint * self.coverage(distance.abs(), outline)[:, None]
        self.canvas = (
            self.canvas + (paint - self.canvas) * self.coverage(distance, outline)[:, None]
        )


def patterned_surface(
    pattern: Tensor,  # (count,)
    main: Tensor,  # (count, 3, 1, 1)
    second: Tensor,
    x: Tensor,  # (count, size, size)
    y: Tensor,
    identity: Tensor,  # (count, IDENTITY_NUMBERS)
    middle: float,
    pixel: Number,  # (count, 1, 1)
) -> Tensor:  # (count, 3, size, size)
    """Colour the plane: `second` inside the individual's pattern, `main` elsewhere.

    Args:
        middle: Height of the middle of the patterned part, in object units.
        pixel: Width of a pixel in object units, over which edges are blended.
    """

    def number(i: int) -> Tensor:
        return identity[:, i].view(-1, 1, 1)

    def edge(value: Tensor, steepness: Number) -> Tensor:
        return (value / (steepness * pixel) + 0.5).clamp(0, 1)

    y = y - middle
    phase = 2 * math.pi * number(10)
    turn = torch.floor(number(9) * 3) * (math.pi / 4)
    rate = math.pi * (3.2 + 3.0 * number(8))
    along = x * torch.cos(turn) + y * torch.sin(turn)
    across = y * torch.cos(turn) - x * torch.sin(turn)
    check = 0.8 * rate
    checks = torch.sin(along * check + phase) * torch.sin(across * check + phase)
    density = 2.2 + 1.6 * number(8)
    row = torch.floor(y * density + number(11))
    dot_x = torch.frac(x * density + number(10) + 0.5 * torch.remainder(row, 2) + 50) - 0.5
    dot_y = y * density + number(11) - row - 0.5
    dot = 0.22 + 0.10 * number(12) - torch.sqrt(dot_x**2 + dot_y**2)
    zigzag = (torch.remainder(x * 2.5 + number(10), 1) - 0.5).abs() * 2
    slant = 0.6 * (number(9) - 0.5)
    masks = {
        "striped": edge(torch.sin(across * rate + phase), rate),
        "spotted": edge(dot, density),
        "checkered": edge(checks, check),
        "zigzag": edge(torch.sin((y + 0.22 * zigzag) * 3.6 * math.pi + phase), 3.6 * math.pi),
        "two-tone": edge(x * slant + y + 0.16 * (number(10) - 0.5), 1.2),
        "ringed": edge(torch.sin(torch.sqrt(x * x + y * y + 1e-6) * 5 * math.pi), 5 * math.pi),
    }
    on = torch.zeros_like(x)
    for name, mask in masks.items():
        on = torch.where(pattern.view(-1, 1, 1) == PATTERNS.index(name), mask, on)
    return main + (second - main) * on[:, None]
