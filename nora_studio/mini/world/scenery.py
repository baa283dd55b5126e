"""The basis of every place: the screen, a horizon, and numbers that vary by picture."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nora_studio.mini.world.pen import Color, Pen


@dataclass(frozen=True)
class Scenery:
    """A batch of screens to paint: [-1, 1] squared, y pointing down."""

    x: Tensor
    """(count, size, size)."""
    y: Tensor
    pixel: float
    """Width of a pixel."""
    view: Tensor
    """(count, VIEW_NUMBERS)."""
    background: Tensor
    """(count, 3, 1, 1)."""

    @property
    def horizon(self) -> Tensor:
        """Height where the ground begins, (count, 1, 1)."""
        return 0.22 * self.number(8) - 0.05

    def number(self, index: int) -> Tensor:
        """Return one of the view's uniform numbers, (count, 1, 1)."""
        return self.view[:, index].view(-1, 1, 1)

    def hashed(self, index: int, salt: float = 0.0) -> Tensor:
        """Return a uniform number for thing `index`, hashed from the view's second."""
        seed = self.view[:, 1] * 57.3 + index * 78.233 + salt
        return torch.remainder(torch.sin(seed) * 43758.5453, 1).view(-1, 1, 1)

    def noise(self, cells: int, salt: float) -> Tensor:
        """Return smooth noise of `cells` x `cells` bumps, about 0 to 1, (count, size, size)."""
        ramp = torch.arange(cells * cells, device=self.view.device, dtype=self.view.dtype)
        seed = self.view[:, :1] * 91.7 + ramp * 12.9898 + salt
        grid = torch.remainder(torch.sin(seed) * 43758.5453, 1).view(-1, 1, cells, cells)
        size = self.x.shape[-2:]
        return F.interpolate(grid, size, mode="bicubic", align_corners=True)[:, 0]

    def color(self, rgb: Color) -> Tensor:
        """Return a colour as a tensor that fits a canvas."""
        return rgb if isinstance(rgb, Tensor) else self.view.new_tensor(rgb).view(1, 3, 1, 1)

    def blend(self, first: Color, last: Color, amount: Tensor) -> Tensor:
        """Interpolate from `first` at amount 0 to `last` at 1, (count, 3, size, size)."""
        start = self.color(first)
        return start + (self.color(last) - start) * amount.clamp(0, 1)[:, None]

    def sky(self, top: Color, bottom: Color, height: float) -> Tensor:
        """Return a canvas that fades from the top of the screen over `height` screen units."""
        return self.blend(top, bottom, (self.y + 1) / height)

    def pen(self, canvas: Tensor) -> Pen:
        """Return a pen that paints on a canvas in screen units."""
        canvas = canvas.expand(len(self.view), 3, *self.x.shape[-2:])
        return Pen(canvas, self.x, self.y, 1.0, self.pixel)

    def wave(self, height: float, rate: float, phase: int) -> Tensor:
        """Return a gently waving ground line around the horizon, (count, size, size)."""
        return self.horizon + height * torch.sin(self.x * rate + 6 * self.number(phase))
