"""The canvas of the demo scenes: a pinhole camera over a flat street, paint with light and haze, and a few shapes.

Everything is drawn at `SUPERSAMPLE` times the final resolution and averaged for the image, while labels stay crisp. Lengths are
metres: x to the right of the camera, y above the ground, z ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segnas.data.base import IGNORE
from segnas.data.demo_light import Array, Light

SUPERSAMPLE = 2
TILE = 128  # side of the tile of grain, a power of two
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, SIGN = range(8)


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera; all but `eye` in pixels of the supersampled canvas."""

    height: int
    width: int
    focal: float
    horizon: float  # row
    vanishing: float  # column at which x = 0 meets the horizon
    eye: float  # metres above the ground

    def column(self, x: float, z: float) -> float:
        return self.vanishing + self.focal * x / z

    def row(self, y: float, z: float) -> float:
        return self.horizon + self.focal * (self.eye - y) / z


@dataclass(frozen=True)
class Patch:
    """The canvas pixels that an upright rectangle covers, with their place on it in metres."""

    rows: slice
    columns: slice
    u: Array  # (1, w) to the right of the middle; along the street where the rectangle runs along it
    v: Array  # (h, 1) above the ground; (h, w) where depth differs from column to column
    z: float  # depth of the nearest point


class Canvas:
    """image: (H, W, 3) float32, label: (H, W) uint8, both supersampled; `paint` covers what was there before."""

    def __init__(self, camera: Camera, light: Light, rng: np.random.Generator) -> None:
        self.camera = camera
        self.light = light
        self.image = np.zeros((camera.height, camera.width, 3), np.float32)
        self.label = np.zeros((camera.height, camera.width), np.uint8)
        self._tile = value_noise(rng, TILE, (2, 4, 16, 64))

    def upright(self, x: float, z: float, half_width: float, height: float) -> Patch | None:
        """The part in view of a rectangle that faces the camera, or None when nothing of it is."""
        camera = self.camera
        left, right = camera.column(x - half_width, z), camera.column(x + half_width, z)
        top, bottom = camera.row(height, z), camera.row(0, z)
        c0, c1 = max(int(np.floor(left)), 0), min(int(np.ceil(right)), camera.width)
        r0, r1 = max(int(np.floor(top)), 0), min(int(np.ceil(bottom)), camera.height)
        if c0 >= c1 or r0 >= r1:
            return None
        u = (np.arange(c0, c1, dtype=np.float32) + 0.5 - camera.vanishing) * (z / camera.focal) - x
        v = camera.eye - (np.arange(r0, r1, dtype=np.float32) + 0.5 - camera.horizon) * (z / camera.focal)
        return Patch(slice(r0, r1), slice(c0, c1), u[None, :], v[:, None], z)

    def paint(
        self, patch: Patch, mask: Array, color: Array, train_id: int, depth: Array | float | None = None, shines: bool = False
    ) -> None:
        """Paint `color`, (3,) or (h, w, 3), where `mask` (h, w); haze by `depth` (metres, broadcast to (h, w)) or the patch's z.

        What shines (lit windows, lamps) keeps its colour at night.
        """
        far = np.exp(-(patch.z if depth is None else depth) / self.light.visibility)
        clear = np.asarray(far, np.float32)[..., None]
        lit = np.asarray(color, np.float32) * (1.0 if shines else self.light.tint)
        hazy = lit * clear + self.light.haze * (1 - clear)
        np.copyto(self.image[patch.rows, patch.columns], hazy, where=mask[..., None])
        np.copyto(self.label[patch.rows, patch.columns], np.uint8(train_id), where=mask)

    def grain(self, u: Array, v: Array, scale: float) -> Array:
        """Noise in about -1..1 fixed to a surface: `scale` cells a metre, u and v in metres (broadcast together)."""
        columns = (u * scale).astype(np.int64) & (TILE - 1)
        rows = (v * scale).astype(np.int64) & (TILE - 1)
        return self._tile[rows, columns]

    def finish(self) -> tuple[Array, Array]:
        """image (H, W, 3) float32 averaged, label (H, W) uint8 by majority; pixels that two classes share evenly are IGNORE."""
        corners = [np.s_[row::SUPERSAMPLE, column::SUPERSAMPLE] for row in range(SUPERSAMPLE) for column in range(SUPERSAMPLE)]
        image = np.mean([self.image[corner] for corner in corners], axis=0)
        samples = [self.label[corner] for corner in corners]
        label, most = samples[0].copy(), np.zeros(samples[0].shape, np.uint8)
        for sample in samples:
            votes = np.zeros_like(most)
            for other in samples:
                votes += sample == other
            tied = (votes == most) & (sample != label)
            label[votes > most] = sample[votes > most]
            label[tied] = IGNORE
            most = np.maximum(most, votes)
        return image, label


def value_noise(rng: np.random.Generator, side: int, cells: tuple[int, ...]) -> Array:
    """(side, side) float32 that tiles, of mean 0 and deviation 0.5: random grids of `cells` a side, smoothly enlarged, added."""
    total = np.zeros((side, side), np.float32)
    for count in cells:
        grid = rng.standard_normal((count, count), dtype=np.float32)
        position = np.arange(side, dtype=np.float32) * (count / side)
        low = position.astype(np.int64)
        share = position - low
        share = share * share * (3 - 2 * share)
        high = (low + 1) % count
        rows = grid[low] * (1 - share)[:, None] + grid[high] * share[:, None]
        total += rows[:, low] * (1 - share) + rows[:, high] * share
    total -= total.mean()
    return total * np.float32(0.5 / total.std())


def ellipse(u: Array, v: Array, u0: float, v0: float, radius_u: float, radius_v: float) -> Array:
    """Boolean mask of an ellipse."""
    inside: Array = ((u - u0) / radius_u) ** 2 + ((v - v0) / radius_v) ** 2 < 1
    return inside


def capsule(u: Array, v: Array, start: tuple[float, float], end: tuple[float, float], radius: float) -> Array:
    """Boolean mask of all points within `radius` of a segment."""
    du, dv = end[0] - start[0], end[1] - start[1]
    along = np.clip(((u - start[0]) * du + (v - start[1]) * dv) / max(du * du + dv * dv, 1e-9), 0, 1)
    inside: Array = (u - start[0] - along * du) ** 2 + (v - start[1] - along * dv) ** 2 < radius * radius
    return inside


def taper(u: Array, v: Array, bottom: tuple[float, float], top: tuple[float, float], middle: float = 0.0) -> Array:
    """Boolean mask of an upright trapezium; `bottom` and `top` are (v, half width)."""
    share = (v - bottom[0]) / (top[0] - bottom[0])
    inside: Array = (np.abs(u - middle) < bottom[1] + share * (top[1] - bottom[1])) & (share > 0) & (share < 1)
    return inside
