"""Upright planes of the demo street: house fronts and hedges, and the perspective of those that run along the street."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from segnas.data.demo_canvas import BUILDING, TREE, Canvas, Patch
from segnas.data.demo_light import Array, hsv, paint_color
from segnas.data.demo_objects import foliage_color


class Surface(Protocol):
    """The look of an upright plane of some height; `depth` is the distance of its pixels, broadcast to those of the patch."""

    def paint(self, canvas: Canvas, patch: Patch, height: float, depth: Array | float) -> None: ...


class Facade:
    """The look of one building: wall, windows, shop, cornice; `paint` puts it on any upright plane."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.wall = paint_color(rng, 0.65)
        self.glass = paint_color(rng, 0.6) * rng.uniform(0.3, 1.0)
        self.trim = paint_color(rng, 0.7)
        self.lamp = hsv(rng.uniform(0.09, 0.16), rng.uniform(0.2, 0.6), rng.uniform(0.8, 1.0))
        self.period = rng.uniform(1.6, 3.4)
        self.window = (rng.uniform(0.35, 0.72), rng.uniform(0.4, 0.7))  # shares of the period and of the storey
        self.shop = bool(rng.random() < 0.5)
        self.rough = rng.uniform(0.05, 0.3)
        self.shade = rng.uniform(0.7, 1.05)
        self.lit = rng.uniform(0.1, 0.6)

    def paint(self, canvas: Canvas, patch: Patch, height: float, depth: Array | float) -> None:
        u, v = patch.u, patch.v
        inside = (v > 0) & (v < height)
        color = self.wall * self.shade * (1 + self.rough * canvas.grain(u, v * 3, 4))[..., None]
        storey, column = (v - 0.6) / 3.1, u / self.period
        beside, above = np.abs(column % 1 - 0.5), np.abs(storey % 1 - 0.5)
        window = (beside < self.window[0] / 2) & (above < self.window[1] / 2) & (v < height - 0.5)
        frame = (beside < self.window[0] / 2 + 0.05) & (above < self.window[1] / 2 + 0.05)
        np.copyto(color, self.trim * np.float32(self.shade), where=frame[..., None])
        gleam = (0.85 + 0.35 * canvas.grain(u, v, 1.3))[..., None]
        np.copyto(color, self.glass * gleam, where=window[..., None])
        edge = (v > height - 0.35) | (v < 0.35) | (self.shop & (np.abs(v - 3.0) < 0.3))
        np.copyto(color, self.trim * np.float32(0.8), where=edge[..., None])
        canvas.paint(patch, inside, color, BUILDING, depth=depth)
        if canvas.light.night:
            someone = canvas.grain(np.floor(column) + 3, np.floor(storey) + 5, 7) > 0.5 - self.lit
            canvas.paint(patch, inside & window & someone, self.lamp, BUILDING, depth=depth, shines=True)


class Hedge:
    """Leaves along a wall, with a ragged top; `size` metres is the size of its bumps."""

    def __init__(self, rng: np.random.Generator, size: float) -> None:
        self.color = foliage_color(rng)
        self.size = size

    def paint(self, canvas: Canvas, patch: Patch, height: float, depth: Array | float) -> None:
        u, v = patch.u, patch.v
        bumps = canvas.grain(u, 0 * v, 5 / self.size) * 0.35 * self.size
        leaves = canvas.grain(u, v, 14 / self.size)
        shade = np.clip(0.55 + 0.35 * v / height + 0.4 * leaves, 0.15, 1.4)
        canvas.paint(patch, (v > 0) & (v < height - 0.3 + bumps), self.color * shade[..., None], TREE, depth=depth)


def flank(canvas: Canvas, style: Surface, wall: float, near: float, far: float, height: float) -> None:
    """The wall x = `wall` from z = near to far: the depth of a column follows from the camera."""
    camera = canvas.camera
    ends = sorted((camera.column(wall, near), camera.column(wall, far)))
    first, last = max(int(np.floor(ends[0])), 0), min(int(np.ceil(ends[1])), camera.width)
    if first >= last:
        return
    offset = np.arange(first, last, dtype=np.float32)[None, :] + 0.5 - camera.vanishing
    z = np.clip(camera.focal * wall / np.where(offset * wall > 0, offset, np.sign(wall) * 0.5), near, far)
    top, bottom = max(int(camera.row(height, near)), 0), min(int(np.ceil(camera.row(0, near))), camera.height)
    if top >= bottom:
        return
    rows = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
    v = camera.eye - (rows - camera.horizon) * z / camera.focal
    patch = Patch(slice(top, bottom), slice(first, last), z, v, near)
    style.paint(canvas, patch, height, z)
