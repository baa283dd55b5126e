"""Outdoor places by day; painters return the canvas and the height where the floor begins."""

import torch
from torch import Tensor

from nora_studio.mini.world.pen import Pen
from nora_studio.mini.world.scenery import Scenery
from nora_studio.mini.world.shapes import box, circle, ellipse, polygon, segment, star

Painted = tuple[Tensor, Tensor]  # (count, 3, size, size), (count, 1, 1)


def paint_snow(s: Scenery) -> Painted:
    """Paint firs and falling flakes."""
    pen = s.pen(s.sky((0.62, 0.78, 0.93), (0.86, 0.92, 0.97), 1.2))
    foot = s.horizon + 0.04
    for i in range(4):
        tree, k = -1 + 2 * s.hashed(i), 0.25 + 0.2 * s.hashed(i, 5.0)
        for tier in range(3):
            half, low, high = 0.62 - 0.15 * tier, 0.5 * tier, 1.0 + 0.5 * tier
            points = [(tree - k * half, foot - k * low), (tree, foot - k * high)]
            points.append((tree + k * half, foot - k * low))
            pen.flat(polygon(s.x, s.y, points), s.color((0.22, 0.42, 0.36)) * (0.9 + 0.12 * tier))
        left, right, low = tree - k * 0.14, tree + k * 0.14, foot - k * 1.55
        cap = polygon(s.x, s.y, [(left, low), (tree, foot - k * 2), (right, low)])
        pen.flat(cap, (0.97, 0.98, 1.0))
    ground = s.wave(0.05, 3.0, 9)
    drift = s.noise(6, 1.0) * 0.8 - 0.1 + (s.y - ground) * 0.25
    pen.flat(ground - s.y, s.blend((0.98, 0.99, 1.0), (0.80, 0.87, 0.96), drift))
    for i in range(16):
        flake_x, flake_y = -1 + 2 * s.hashed(i, 9.0), -1 + 2 * s.hashed(i, 13.0)
        flake = circle(s.x, s.y, flake_x, flake_y, 0.016 + 0.018 * s.hashed(i, 17.0))
        pen.flat(flake, (1.0, 1.0, 1.0), 0.95)
    return pen.canvas, s.horizon


def paint_grass(s: Scenery) -> Painted:
    """Paint a meadow under the sun."""
    pen = s.pen(s.sky((0.38, 0.66, 0.95), (0.78, 0.90, 0.99), 1.1))
    for i in range(2):
        _cloud(pen, s, i)
    hill = s.wave(0.10, 2.2, 9) - 0.12
    pen.flat(hill - s.y, (0.42, 0.70, 0.36))
    meadow = s.blend((0.36, 0.70, 0.24), (0.24, 0.56, 0.18), s.noise(12, 3.0))
    pen.flat(s.wave(0.03, 3.0, 10) - s.y, meadow)
    petals = [(0.98, 0.95, 0.5), (0.98, 0.6, 0.75), (1.0, 1.0, 1.0)]
    for i in range(12):
        flower_x = -1 + 2 * s.hashed(i, 1.0)
        flower_y = s.horizon + 0.12 + (0.9 - s.horizon) * s.hashed(i, 2.0)
        blossom = circle(s.x, s.y, flower_x, flower_y, 0.026 + 0.01 * s.hashed(i, 3.0))
        pen.flat(blossom, petals[i % 3])
    return pen.canvas, s.horizon


def paint_beach(s: Scenery) -> Painted:
    """Paint sand in front of the sea."""
    pen = s.pen(s.sky((0.40, 0.74, 0.96), (0.85, 0.94, 0.98), 0.9))
    sun_x, sun_y = -0.8 + 1.6 * s.number(9), -0.68 + 0.1 * s.number(10)
    pen.flat(circle(s.x, s.y, sun_x, sun_y, 0.14), (1.0, 0.93, 0.55))
    shore = s.horizon - 0.30
    sea = s.blend((0.10, 0.48, 0.74), (0.28, 0.74, 0.82), (s.y - shore) * 3)
    pen.flat(shore - s.y, sea)
    ground = s.wave(0.04, 3.3, 11)
    pen.flat(ground - 0.05 - s.y, (0.95, 0.98, 1.0))
    grain = s.noise(14, 4.0) * 0.7 + (s.y - ground) * 0.2
    pen.flat(ground - s.y, s.blend((0.96, 0.86, 0.62), (0.88, 0.75, 0.48), grain))
    starfish = star(s.x, s.y, -0.85 + 1.7 * s.hashed(1), 0.86, 0.10)
    pen.flat(starfish, (0.95, 0.45, 0.35))
    return pen.canvas, s.horizon


def paint_forest(s: Scenery) -> Painted:
    """Paint a dense forest."""
    haze = (s.y + 1) / 1.4 * (0.6 + 0.8 * s.noise(5, 1.0))
    pen = s.pen(s.blend((0.20, 0.40, 0.22), (0.52, 0.70, 0.42), haze))
    for i in range(6):
        tree, width = -1.0 + 0.4 * i + 0.3 * (s.hashed(i) - 0.5), 0.05 + 0.06 * s.hashed(i, 2.0)
        bark = torch.sin((s.x - tree) * 60) * 0.5 + 0.5
        trunk = s.blend((0.34, 0.22, 0.13), (0.20, 0.13, 0.08), bark)
        pen.flat(box(s.x, s.y, tree, -0.3, width, 0.9), trunk)
    for i in range(9):
        leaf_x, leaf_y = -1.1 + 0.28 * i + 0.1 * s.hashed(i, 3.0), -1.0 + 0.22 * s.hashed(i, 4.0)
        green = s.color((0.12, 0.36, 0.15)) * (0.8 + 0.5 * s.hashed(i, 5.0))[:, None]
        pen.flat(circle(s.x, s.y, leaf_x, leaf_y, 0.26), green)
    moss = s.blend((0.30, 0.36, 0.14), (0.20, 0.26, 0.10), s.noise(12, 6.0))
    pen.flat(s.wave(0.04, 4.0, 9) + 0.1 - s.y, moss)
    for i in range(6):
        bush = circle(
            s.x, s.y, -1 + 2 * s.hashed(i, 7.0), s.horizon + 0.1, 0.10 + 0.06 * s.hashed(i, 8.0)
        )
        pen.flat(bush, (0.16, 0.42, 0.17))
    return pen.canvas, s.horizon


def paint_city(s: Scenery) -> Painted:
    """Paint houses with windows along a street."""
    pen = s.pen(s.sky((0.60, 0.76, 0.92), (0.92, 0.90, 0.86), 1.1))
    for i in range(5):
        house_x, half = -0.9 + 0.45 * i + 0.1 * s.hashed(i), 0.19 + 0.06 * s.hashed(i, 2.0)
        roof = -0.25 - 0.6 * s.hashed(i, 3.0)
        wall = torch.maximum((s.x - house_x).abs() - half, roof - s.y)
        pen.flat(wall, s.color((0.42, 0.46, 0.55)) * (0.75 + 0.6 * s.hashed(i, 4.0))[:, None])
        pane_x = (torch.frac((s.x - house_x) * 9 + 50.5) - 0.5).abs() - 0.24
        pane_y = (torch.frac(s.y * 8 + 50) - 0.5).abs() - 0.28
        panes = torch.maximum(torch.maximum(pane_x, pane_y) / 9, wall + 0.04)
        pen.flat(panes, (0.98, 0.93, 0.62))
    pen.flat(s.horizon - s.y, (0.66, 0.66, 0.66))
    pen.flat(s.horizon + 0.12 - s.y, (0.30, 0.30, 0.33))
    dash_x = (torch.frac(s.x * 1.6 + s.number(9) + 9) - 0.5).abs() / 1.6 - 0.17
    pen.flat(torch.maximum((s.y - s.horizon - 0.42).abs() - 0.022, dash_x), (0.96, 0.9, 0.5))
    return pen.canvas, s.horizon + 0.05


def paint_desert(s: Scenery) -> Painted:
    """Paint dunes with cacti."""
    pen = s.pen(s.sky((0.97, 0.66, 0.36), (0.99, 0.88, 0.64), 1.1))
    pen.flat(circle(s.x, s.y, -0.7 + 1.4 * s.number(9), -0.62, 0.17), (1.0, 0.96, 0.78))
    pen.flat(s.wave(0.12, 2.0, 10) - 0.10 - s.y, (0.86, 0.60, 0.32))
    for i in range(2):
        _cactus(pen, s, -0.85 + 1.7 * s.hashed(i, 2.0), 0.8 + 0.4 * s.hashed(i, 3.0))
    ripple = torch.sin((s.y + 0.1 * torch.sin(s.x * 3)) * 26) * 0.35 + 0.4
    sand = s.blend((0.94, 0.74, 0.42), (0.84, 0.60, 0.30), ripple)
    pen.flat(s.wave(0.05, 2.6, 11) - s.y, sand)
    return pen.canvas, s.horizon


def _cloud(pen: Pen, s: Scenery, index: int) -> None:
    cloud_x, cloud_y = -0.9 + 1.8 * s.hashed(index, 21.0), -0.85 + 0.4 * s.hashed(index, 23.0)
    k = 0.8 + 0.5 * s.hashed(index, 25.0)
    for shift, half_w, half_h in ((-0.16, 0.14, 0.07), (0.0, 0.18, 0.11), (0.17, 0.13, 0.065)):
        puff = ellipse(
            s.x, s.y, cloud_x + shift * k, cloud_y - (half_h - 0.07) * k, half_w * k, half_h * k
        )
        pen.flat(puff, (1.0, 1.0, 1.0), 0.95)


def _cactus(pen: Pen, s: Scenery, x: Tensor, k: Tensor) -> None:
    foot = s.horizon + 0.06
    strokes = [  # each from, to, and half its width, in units of the cactus
        ((0.0, 0.0), (0.0, 0.5), 0.06),
        ((0.0, 0.20), (0.16, 0.20), 0.04),
        ((0.16, 0.20), (0.16, 0.36), 0.04),
        ((-0.15, 0.28), (-0.15, 0.42), 0.04),
        ((-0.15, 0.28), (0.0, 0.28), 0.04),
    ]
    for (ax, ay), (bx, by), radius in strokes:
        start, end = (x + ax * k, foot - ay * k), (x + bx * k, foot - by * k)
        pen.flat(segment(s.x, s.y, start, end, radius * k), (0.22, 0.50, 0.26))
