"""One demo street: sky, ground and walls by ray casting, then everything that stands in it, painted from far to near.

Nothing about a surface is told by its colour: sky, walls, ground, leaves, cars and clothes draw from the same ranges, and hour,
weather and camera tint them all. Where it is, its shape, its texture and what is around it tell the class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from segnas.data.base import IGNORE
from segnas.data.demo_canvas import PAVEMENT, ROAD, SKY, SUPERSAMPLE, Camera, Canvas, Patch, capsule
from segnas.data.demo_light import Array, draw_light, expose, paint_color
from segnas.data.demo_objects import car, person, sign, tree
from segnas.data.demo_walls import Facade, Hedge, Surface, flank

NEAREST = 1.2  # metres; nothing is drawn closer
FAR = 120.0  # metres to the end of the longest street


@dataclass(frozen=True)
class Street:
    """Cross-section and length, metres; x of the kerbs and of the walls, seen from the camera."""

    kerbs: tuple[float, float]
    walls: tuple[float, float]
    end: float
    crossing: tuple[float, float]  # a street that crosses, from z to z; empty when both are equal
    open_side: int  # -1 or 1: a park instead of buildings on this side; 0: none


@dataclass(frozen=True)
class Standing:
    """Something upright: how to draw it, where, and what it needs to cast a shadow."""

    draw: Callable[[Canvas, np.random.Generator, float, float], None]
    x: float
    z: float
    height: float
    width: float


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[Array, Array]:
    """An image (H, W, 3) uint8 and its label (H, W) uint8, train ids or IGNORE, from one generator."""
    camera = _camera(rng, height * SUPERSAMPLE, width * SUPERSAMPLE)
    light, zenith = draw_light(rng)
    street = _street(rng)
    canvas = Canvas(camera, light, rng)
    things = _things(rng, camera, street)
    _sky(canvas, rng, zenith)
    _ground(canvas, rng, street, things)
    _end_of_street(canvas, rng, street)
    for side in (0, 1):
        _walls(canvas, rng, street, side)
    for thing in sorted(things, key=lambda thing: -thing.z):
        thing.draw(canvas, rng, thing.x, thing.z)
    if rng.random() < 0.3:
        _bonnet(canvas, rng)
    image, label = canvas.finish()
    return expose(image, rng, light), label


def _camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    return Camera(
        height=height,
        width=width,
        focal=width * rng.uniform(0.7, 0.95),
        horizon=height * rng.uniform(0.36, 0.54),
        vanishing=width * rng.uniform(0.28, 0.72),
        eye=rng.uniform(1.5, 2.4),
    )


def _street(rng: np.random.Generator) -> Street:
    half, offset = rng.uniform(2.6, 4.4), rng.uniform(-2.8, 2.8)
    kerbs = (-half + offset - 0.4, half + offset + 0.4)
    start = rng.uniform(7, 30)
    return Street(
        kerbs=kerbs,
        walls=(kerbs[0] - rng.uniform(2.2, 5.0), kerbs[1] + rng.uniform(2.2, 5.0)),
        end=FAR if rng.random() < 0.5 else rng.uniform(35, 90),
        crossing=(start, start + (rng.uniform(5, 8) if rng.random() < 0.35 else 0.0)),
        open_side=int(rng.choice([-1, 0, 0, 0, 1])),
    )


def _things(rng: np.random.Generator, camera: Camera, street: Street) -> list[Standing]:
    """Cars on the road, people on road and pavements, signs and trees on the pavements: some near, some far."""
    things: list[Standing] = []
    (left, right), (wall_left, wall_right) = street.kerbs, street.walls
    pavements = [(wall_left + 0.4, left - 0.3), (right + 0.3, wall_right - 0.4)]
    roads = [(left + 0.9, right - 0.9)]

    def put(
        draw: Callable[..., None], zones: list[tuple[float, float]], near: float, far: float, height: float, width: float
    ) -> None:
        for _ in range(30):
            z = near * (far / near) ** rng.random()
            zone = zones[rng.integers(len(zones))]
            x = rng.uniform(*zone)
            in_view = 0.04 < camera.column(x, z) / camera.width < 0.96
            free = all(abs(x - other.x) > 0.45 * (width + other.width) or abs(z - other.z) > 1.5 + width for other in things)
            if in_view and free and z < street.end:
                things.append(Standing(draw, x, z, height, width))
                return

    if rng.random() < 0.3:
        put(functools.partial(car, side_on=True), roads, 5, 16, 1.5, 4.2)
    put(car, roads, 4.5, 10, 1.5, 1.9)
    for _ in range(2):
        put(person, pavements + roads, 3.2, 8, 1.7, 0.6)
    for _ in range(2):
        put(sign, pavements, 3.5, 9, 2.7, 0.6)
    put(tree, pavements, 5, 14, 5.0, 2.5)
    for _ in range(rng.integers(1, 5)):
        put(car, roads, 9, 60, 1.5, 1.9)
    for _ in range(rng.integers(1, 5)):
        put(person, pavements + pavements + roads, 5, 32, 1.7, 0.6)
    for _ in range(rng.integers(0, 3)):
        put(sign, pavements, 6, 25, 2.7, 0.6)
    for _ in range(rng.integers(1, 5)):
        put(tree, pavements, 8, 45, 5.0, 2.5)
    return things


def _sky(canvas: Canvas, rng: np.random.Generator, zenith: Array) -> None:
    camera, haze = canvas.camera, canvas.light.haze
    rows = (np.arange(camera.height, dtype=np.float32)[:, None] + 0.5) / camera.horizon
    columns = np.arange(camera.width, dtype=np.float32)[None, :] / camera.horizon
    share = np.clip(rows, 0, 1)[..., None] ** rng.uniform(0.8, 2.0)
    color = zenith * (1 - share) + haze * share
    if rng.random() < 0.7:
        clouds = canvas.grain(columns, rows * rng.uniform(1.5, 3.5), 50) - rng.uniform(-0.3, 0.4)
        cover = np.clip(clouds * rng.uniform(0.6, 1.6), 0, 0.85)[..., None]
        color = color * (1 - cover) + np.clip(haze * rng.uniform(0.8, 1.25), 0, 1) * cover
    canvas.image[:] = color
    canvas.label[:] = SKY


def _ground(canvas: Canvas, rng: np.random.Generator, street: Street, things: list[Standing]) -> None:
    """Road with markings, patches and puddles, pavements with slabs, and everybody's shadow."""
    camera, light = canvas.camera, canvas.light
    top = int(np.ceil(camera.horizon + camera.focal * camera.eye / (2 * FAR)))
    rows = np.arange(top, camera.height, dtype=np.float32)[:, None] + 0.5 - camera.horizon
    z = camera.focal * camera.eye / rows
    x = (np.arange(camera.width, dtype=np.float32)[None, :] + 0.5 - camera.vanishing) * (z / camera.focal)
    patch = Patch(slice(top, camera.height), slice(0, camera.width), x, rows, 0.0)
    left, right = street.kerbs
    crossing = (z > street.crossing[0]) & (z < street.crossing[1])
    road = ((x > left) & (x < right)) | crossing
    shade = _shadows(canvas, rng, street, things, x, z)[..., None]
    distant = np.clip(14 / z, 0, 1)  # texture finer than a pixel is left out

    slab = rng.uniform(0.6, 1.1)
    asphalt = paint_color(rng, 0.4) * 0.5 + rng.uniform(0.05, 0.35)
    stone = asphalt + rng.uniform(0.1, 0.3) + 0.3 * (paint_color(rng, 0.6) - 0.5)  # lighter than its own road, not than others'
    joints = ((x % slab < 0.06) | (z % slab < 0.07)) * rng.uniform(0.25, 0.5) * distant
    kerb = ((np.abs(x - left) < 0.16) | (np.abs(x - right) < 0.16)) * rng.uniform(0.2, 0.5)
    paving = stone * (1 - joints + kerb + 0.1 * canvas.grain(x, z, 2.5))[..., None]
    canvas.paint(patch, ~road, paving * shade, PAVEMENT, depth=z)

    grit = 0.13 * canvas.grain(x, z, 14) * distant + 0.1 * canvas.grain(x + 40, z * 0.5, 1.2)
    surface = asphalt * (1 + grit)[..., None]
    paint = np.clip(asphalt + rng.uniform(0.25, 0.5), 0, 1) * np.array([1, 1, rng.choice([1.0, 0.6])])
    middle = (left + right) / 2
    marks = (np.abs(x - middle) < 0.08) & (z % 6 < rng.choice([2.5, 6.0])) & ~crossing
    if rng.random() < 0.5:
        marks |= ((np.abs(x - left - 0.35) < 0.06) | (np.abs(x - right + 0.35) < 0.06)) & ~crossing
    if rng.random() < 0.35:  # a zebra crossing
        start = rng.uniform(4, 16)
        marks |= (z > start) & (z < start + 3) & ((x - left) % 1.0 < 0.5)
    surface = np.where(marks[..., None], paint, surface)
    if rng.random() < 0.3:  # puddles show the sky
        wet = canvas.grain(x + 7, z * 0.6, 1.7) > 0.45
        surface = np.where(wet[..., None], 0.35 * surface + 0.6 * light.haze / np.maximum(light.tint, 0.3), surface)
    canvas.paint(patch, road, surface * shade, ROAD, depth=z)


def _shadows(canvas: Canvas, rng: np.random.Generator, street: Street, things: list[Standing], x: Array, z: Array) -> Array:
    """The factor on the ground's light: the row of houses towards the sun, things' cast shadows, the dark under each of them."""
    camera, light = canvas.camera, canvas.light
    shade = np.ones((z.shape[0], x.shape[1]), np.float32)
    if rng.random() < 0.5:
        reach = rng.uniform(1, 6)
        covered = x < street.walls[0] + reach if light.sun[0] > 0 else x > street.walls[1] - reach
        shade[covered & (x > street.walls[0] - 20)] = 1 - light.shadow
    depth = z[:, 0]
    for thing in things:
        end = (thing.x + light.sun[0] * thing.height, thing.z + light.sun[1] * thing.height)
        touched = np.flatnonzero(np.abs(depth - (thing.z + end[1]) / 2) < abs(end[1] - thing.z) / 2 + thing.width)
        if len(touched) == 0:
            continue
        edges = (min(thing.x, end[0]) - thing.width, max(thing.x, end[0]) + thing.width)
        across = [camera.column(edge, float(depth[row])) for edge in edges for row in (touched[0], touched[-1])]
        box = np.s_[touched[0] : touched[-1] + 1, max(int(min(across)), 0) : max(int(max(across)) + 1, 0)]
        ground_x, ground_z, dark = x[box], z[box[0]], shade[box]
        cast = capsule(ground_x, ground_z, (thing.x, thing.z), end, thing.width * 0.45)
        under = capsule(ground_x, ground_z, (thing.x, thing.z), (thing.x, thing.z + 0.1), thing.width * 0.6)
        np.minimum(dark, 1 - light.shadow, out=dark, where=cast)
        np.minimum(dark, 0.65, out=dark, where=under)
    return shade


def _end_of_street(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """A house across the end, or the far town or wood along the horizon."""
    closed = street.end < FAR
    style: Surface = Facade(rng) if closed or rng.random() < 0.5 else Hedge(rng, 6.0)
    height = rng.uniform(6, 22 if closed else 14)
    patch = canvas.upright(0.0, street.end, 40.0 if closed else 400.0, height)
    if patch is not None:
        style.paint(canvas, patch, height, patch.z)


def _walls(canvas: Canvas, rng: np.random.Generator, street: Street, side: int) -> None:
    """The row of buildings (or the hedge of a park) on one side, from far to near, each with its flank and its front."""
    sign_of_side = 1 if side else -1
    wall = street.walls[side]
    z, blocks = float(rng.uniform(-6, 1)), []
    hedged = street.open_side == sign_of_side
    while z < street.end:
        length = rng.uniform(6, 18)
        if not (z < street.crossing[1] and z + length > street.crossing[0] and street.crossing[1] > street.crossing[0]):
            blocks.append((z, z + length))
            z += length + (0.0 if rng.random() < 0.6 else rng.uniform(2, 7))
        else:
            if street.crossing[0] - z > 3:
                blocks.append((z, street.crossing[0]))
            z = street.crossing[1]
    style: Surface
    for start, stop in reversed(blocks):
        if hedged:
            height, style = rng.uniform(0.8, 2.2), Hedge(rng, 1.0)
        else:
            height, style = 3.2 * rng.integers(1, 6) + rng.uniform(0.5, 2.0), Facade(rng)
        near, far = max(start, NEAREST), min(stop, street.end)
        if far <= near:
            continue
        front = canvas.upright(wall + sign_of_side * 6, near, 6, height) if start > NEAREST else None
        if front is not None:
            style.paint(canvas, front, height, near)
        flank(canvas, style, wall, near, far, height)


def _bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """The bonnet of the car that carries the camera: there, but nobody's class (IGNORE), as in recorded sets."""
    height, width = canvas.label.shape
    rows = height - np.arange(height, dtype=np.float32)[:, None]
    across = np.arange(width, dtype=np.float32)[None, :] / width - 0.5
    rise = height * rng.uniform(0.05, 0.1)
    mask = rows < rise * (1 - (across / rng.uniform(0.45, 0.6)) ** 2)
    gloss = paint_color(rng) * canvas.light.tint * (0.6 + 0.6 * np.clip(rows / rise, 0, 1)[..., None])
    np.copyto(canvas.image, gloss, where=mask[..., None])
    canvas.label[mask] = IGNORE
