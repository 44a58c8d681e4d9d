"""What stands in a demo street: cars, people, trees and signs, each a flat or layered drawing in metres on a `Canvas`."""

from __future__ import annotations

import numpy as np

from segnas.data.demo_canvas import CAR, PERSON, SIGN, TREE, Canvas, Patch, capsule, ellipse, taper
from segnas.data.demo_light import Array, hsv, paint_color

SIGN_HUES = (0.0, 0.13, 0.38, 0.6)  # red, yellow, green, blue: as on roads, but also on cars and coats
RUBBER = np.array([0.07, 0.07, 0.08], np.float32)


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, side_on: bool = False) -> None:
    """A car, estate or van whose nearest point is at depth z; seen along the street, or from its side when `side_on`."""
    color = paint_color(rng)
    glass = hsv(rng.uniform(0.5, 0.7), rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.65))
    height = float(rng.choice([1.42, 1.5, 1.75, 2.15]))
    if side_on:
        _car_from_the_side(canvas, rng, x, z, color, glass, height)
    else:
        _car_along_the_street(canvas, rng, x, z, color, glass, height)


def _car_along_the_street(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, color: Array, glass: Array, height: float
) -> None:
    half, waist = rng.uniform(0.85, 0.98), 0.56 * height
    length = rng.uniform(3.6, 4.8)
    pixels = abs(canvas.camera.focal * x * (1 / z - 1 / (z + length)))  # how much of its flank is in view
    steps = int(np.clip(pixels, 1, 16))
    for step in range(steps, -1, -1):  # slices from far to near, evenly spaced on the screen
        share = step / steps
        depth = 1 / ((1 - share) / z + share / (z + length))
        patch = canvas.upright(x, depth, half * 1.02, height)
        if patch is None:
            continue
        where = (depth - z) / length
        cabin = 0.02 < where < (0.98 if height > 2 else 0.7)
        _car_slice(
            canvas, patch, half, height if cabin else waist * 1.05, waist, color * (0.82 - 0.1 * where), glass * 0.9, where
        )
    patch = canvas.upright(x, z, half * 1.02, height)
    if patch is None:
        return
    _car_slice(canvas, patch, half, height, waist, color, None, 0.5)
    u, v = patch.u, patch.v
    canvas.paint(patch, taper(u, v, (waist * 1.08, half * 0.84), (height * 0.93, half * 0.68)), glass, CAR)
    lamps = (np.abs(np.abs(u) - half * 0.8) < half * 0.16) & (np.abs(v - waist * 0.86) < 0.1)
    lamp = np.array([0.85, 0.1, 0.08]) if rng.random() < 0.6 else np.array([1.0, 0.97, 0.85])
    canvas.paint(patch, lamps, lamp, CAR, shines=canvas.light.night)
    canvas.paint(patch, (np.abs(u) < 0.26) & (np.abs(v - waist * 0.62) < 0.07), np.array([0.9, 0.9, 0.85]), CAR)
    canvas.paint(patch, (np.abs(u) < half * 0.96) & (np.abs(v - 0.36) < 0.06), color * 0.55, CAR)


def _car_slice(
    canvas: Canvas, patch: Patch, half: float, height: float, waist: float, color: Array, glass: Array | None, where: float
) -> None:
    """One cross-section: tyres where the axles are, body, cabin; `glass` for its sides, None for the near end."""
    u, v = patch.u, patch.v
    axle = glass is None or min(abs(where - 0.2), abs(where - 0.8)) < 0.09
    if axle:
        canvas.paint(patch, (np.abs(np.abs(u) - half * 0.82) < 0.13) & (v < 0.4), RUBBER, CAR)
    canvas.paint(patch, (np.abs(u) < half * 0.97) & (v > 0.17) & (v < 0.4), RUBBER * 2, CAR)
    canvas.paint(patch, (np.abs(u) < half - np.clip(v - waist + 0.1, 0, 1)) & (v > 0.3) & (v < waist), color, CAR)
    if height > waist * 1.1:
        roof = taper(u, v, (waist * 0.98, half * 0.94), (height, half * 0.72))
        pillars = glass is None or min(abs(where - 0.3), abs(where - 0.62)) < 0.03
        shade = color if pillars or glass is None else glass
        canvas.paint(patch, roof, np.where((v < height * 0.9)[..., None], shade, color), CAR)


def _car_from_the_side(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, color: Array, glass: Array, height: float
) -> None:
    half, waist = rng.uniform(1.9, 2.3), 0.58 * height
    patch = canvas.upright(x, z, half, height)
    if patch is None:
        return
    forwards = 1.0 if rng.random() < 0.5 else -1.0
    u, v = patch.u * forwards, patch.v
    body = (np.abs(u) < half - 0.5 * np.clip(v - waist + 0.25, 0, 1)) & (v > 0.25) & (v < waist)
    cabin = taper(u, v, (waist * 0.97, half * 0.72), (height, half * (0.66 if height > 2 else 0.42)), -0.12 * half)
    canvas.paint(patch, cabin, color * 0.95, CAR)
    canvas.paint(patch, body, color * (0.75 + 0.25 * np.clip(v / waist, 0, 1))[..., None], CAR)
    panes = taper(u, v, (waist * 1.03, half * 0.62), (height * 0.93, half * (0.58 if height > 2 else 0.37)), -0.12 * half)
    canvas.paint(patch, panes & (np.abs(u + 0.1 * half) > 0.06), glass, CAR)
    canvas.paint(patch, (np.abs(u) < half * 0.9) & (v > 0.18) & (v < 0.3), RUBBER * 2, CAR)
    for axle in (-0.6 * half, 0.62 * half):
        canvas.paint(patch, ellipse(u, v, axle, 0.34, 0.35, 0.35), RUBBER, CAR)
        canvas.paint(patch, ellipse(u, v, axle, 0.34, 0.17, 0.17), np.array([0.6, 0.6, 0.62]), CAR)
    canvas.paint(
        patch, ellipse(u, v, half * 0.93, waist * 0.8, 0.12, 0.09), np.array([1.0, 0.95, 0.8]), CAR, shines=canvas.light.night
    )


def person(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Somebody who walks or stands, in coat, skirt or trousers, with or without a bag or an umbrella."""
    height, girth = rng.uniform(1.5, 1.95), rng.uniform(1.0, 1.3)
    umbrella = rng.random() < 0.12
    patch = canvas.upright(x, z, height * 0.34, height * (1.2 if umbrella else 1.0))
    if patch is None:
        return
    u, v = patch.u / height, patch.v / height
    stride, swing = rng.uniform(0.02, 0.14), rng.uniform(-0.08, 0.08)
    top, bottom = paint_color(rng), paint_color(rng)
    skin = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.95))
    hair = paint_color(rng) * 0.6
    shade = (1 - 0.25 * (u > 0.03))[..., None]
    for side in (-1, 1):
        canvas.paint(
            patch, capsule(u, v, (0.045 * side, 0.48), (stride * side, 0.045), 0.05 * girth), bottom * (0.85 + 0.1 * side), PERSON
        )
        canvas.paint(patch, capsule(u, v, (stride * side, 0.03), (stride * side + 0.03, 0.03), 0.028), RUBBER, PERSON)
    dress = rng.random()
    if dress < 0.4:  # a coat or a skirt
        canvas.paint(
            patch, taper(u, v, (0.28, 0.14 * girth), (0.56, 0.1 * girth)), (top if dress < 0.2 else bottom) * shade, PERSON
        )
    canvas.paint(patch, taper(u, v, (0.47, 0.1 * girth), (0.82, 0.125 * girth)), top * shade, PERSON)
    canvas.paint(patch, ellipse(u, v, 0, 0.81, 0.125 * girth, 0.05), top * shade, PERSON)
    for side in (-1, 1):
        hand = (side * 0.15 * girth + swing, 0.47)
        canvas.paint(patch, capsule(u, v, (side * 0.12 * girth, 0.8), hand, 0.035), top * (0.8 + 0.1 * side), PERSON)
        canvas.paint(patch, ellipse(u, v, *hand, 0.025, 0.03), skin, PERSON)
    canvas.paint(patch, ellipse(u, v, 0, 0.92, 0.06, 0.08), skin, PERSON)
    canvas.paint(patch, ellipse(u, v, 0, 0.95, 0.065, 0.055), hair, PERSON)
    if rng.random() < 0.3:
        canvas.paint(patch, (np.abs(u - hand[0]) < 0.06) & (np.abs(v - 0.38) < 0.08), paint_color(rng), PERSON)
    if umbrella:
        canvas.paint(patch, capsule(u, v, (0.1, 0.6), (0.1, 1.1), 0.012), RUBBER, PERSON)
        canvas.paint(patch, ellipse(u, v, 0.08, 0.98, 0.26, 0.2) & (v > 0.98), paint_color(rng), PERSON)


def tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A tree or a bush: a trunk and a crown of overlapping, ragged, speckled balls."""
    bush = rng.random() < 0.25
    height = rng.uniform(1.0, 2.0) if bush else rng.uniform(4.0, 8.0)
    reach = height * (rng.uniform(0.6, 0.9) if bush else rng.uniform(0.32, 0.46))
    patch = canvas.upright(x, z, reach * 1.25, height * 1.05)
    if patch is None:
        return
    u, v = patch.u, patch.v
    color = foliage_color(rng)
    start = 0.05 if bush else rng.uniform(0.28, 0.42)
    if not bush:
        bark = hsv(rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.5), rng.uniform(0.15, 0.45))
        lean = rng.uniform(-0.06, 0.06) * height
        canvas.paint(patch, capsule(u, v, (0, 0), (lean, height * 0.6), 0.04 * height * rng.uniform(0.8, 1.2)), bark, TREE)
    mask = np.zeros((v.shape[0], u.shape[1]), bool)
    light = np.zeros(mask.shape, np.float32)
    ragged = 0.16 * canvas.grain(u + 31 * x, v + 17 * z, 9)
    for _ in range(3 if patch.z > 25 else 8):
        angle, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.62)
        u0 = reach * out * np.cos(angle)
        v0 = height * ((1 + start) / 2 + (1 - start) / 2 * out * np.sin(angle))
        radius = rng.uniform(0.42, 0.62)
        distance = np.hypot((u - u0) / (reach * radius), (v - v0) / (height * (1 - start) * 0.5 * radius)) + ragged
        mask |= distance < 1
        light = np.maximum(light, np.where(distance < 1, 1 - 0.6 * distance + 0.25 * (v - v0) / height, 0))
    leaves = canvas.grain(u - 13 * x, v, 14)
    shade = np.clip(0.5 + 0.5 * light + 0.5 * leaves, 0.12, 1.5)
    canvas.paint(patch, mask, color * shade[..., None], TREE)


def foliage_color(rng: np.random.Generator) -> Array:
    """Leaves in any season: mostly greens, but also autumn, blossom and the grey-brown of winter."""
    season = rng.random()
    if season < 0.6:
        return hsv(rng.uniform(0.18, 0.42), rng.uniform(0.15, 0.6), rng.uniform(0.25, 0.75))
    if season < 0.8:
        return hsv(rng.uniform(0.0, 0.15), rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.9))
    if season < 0.88:
        return hsv(rng.uniform(0.88, 1.0), rng.uniform(0.05, 0.35), rng.uniform(0.6, 0.95))
    return hsv(rng.uniform(0.05, 0.6), rng.uniform(0.0, 0.2), rng.uniform(0.25, 0.7))


def sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A traffic sign, traffic light or board on its pole."""
    height = rng.uniform(2.3, 3.1)
    half = rng.uniform(0.52, 0.72)
    patch = canvas.upright(x, z, half * 1.1, height * 1.02)
    if patch is None:
        return
    u, v = patch.u, patch.v
    middle = height - half
    steel = hsv(0.6, 0.05, rng.uniform(0.2, 0.75))
    canvas.paint(patch, (np.abs(u) < 0.12) & (v < middle), steel, SIGN)
    face = paint_color(rng) if rng.random() < 0.4 else hsv(rng.choice(SIGN_HUES), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.95))
    dark = face.mean() < 0.5
    rim, mark = np.clip(paint_color(rng) * (1.0 if dark else 0.4) + 0.35 * dark, 0, 1), face * 0.2 + 0.75 * dark
    kind = rng.integers(5)
    if kind == 0:  # a round one with a bar or a disc
        canvas.paint(patch, ellipse(u, v, 0, middle, half, half), rim, SIGN)
        canvas.paint(patch, ellipse(u, v, 0, middle, half * 0.72, half * 0.72), face, SIGN)
        canvas.paint(patch, (np.abs(u) < half * 0.48) & (np.abs(v - middle) < half * 0.15), mark, SIGN)
    elif kind == 1:  # a triangle
        canvas.paint(patch, taper(u, v, (middle - half * 0.8, half * 1.05), (height, 0.0)), rim, SIGN)
        canvas.paint(patch, taper(u, v, (middle - half * 0.55, half * 0.72), (height - half * 0.45, 0.0)), face, SIGN)
    elif kind == 2:  # a diamond
        canvas.paint(patch, np.abs(u) + np.abs(v - middle) < half, rim, SIGN)
        canvas.paint(patch, np.abs(u) + np.abs(v - middle) < half * 0.7, face, SIGN)
    elif kind == 3:  # a board with lines of writing
        board = (np.abs(u) < half * 1.05) & (np.abs(v - middle) < half * 0.8)
        lines = (np.abs(u) < half * 0.8) & (np.abs(v - middle) < half * 0.55) & ((v - middle) % (half * 0.4) < half * 0.16)
        canvas.paint(patch, board, face, SIGN)
        canvas.paint(patch, lines, mark, SIGN)
    else:  # a traffic light
        canvas.paint(patch, (np.abs(u) < half * 0.55) & (np.abs(v - middle) < half), RUBBER * 2, SIGN)
        lit = rng.integers(3)
        for lamp, hue in enumerate((0.36, 0.13, 0.0)):
            glow = hsv(hue, 0.85, 1.0 if lamp == lit else 0.25)
            mask = ellipse(u, v, 0, middle + half * 0.6 * (lamp - 1), half * 0.26, half * 0.26)
            canvas.paint(patch, mask, glow, SIGN, shines=lamp == lit)
