"""Colour and light of the demo scenes: one palette for all that is man-made, the hours of the day, the camera's sensor.

Colours are float RGB in 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Light:
    """What the hour and the weather do to every surface."""

    tint: Array  # (3,) factor on every surface that does not shine by itself
    haze: Array  # (3,) colour into which distant things fade
    visibility: float  # metres after which 63 % has faded
    sun: tuple[float, float]  # direction (x, z) of cast shadows on the ground, metres a metre of height
    shadow: float  # 0 none .. 1 black
    night: bool


def paint_color(rng: np.random.Generator, vivid: float = 1.0) -> Array:
    """A colour of anything man-made. One palette serves walls, cars, clothes, signs and ground: colour alone tells nothing.

    `vivid` scales the saturation.
    """
    value = rng.uniform(0.12, 0.95)
    saturation = rng.uniform(0.0, 0.14) if rng.random() < 0.5 else rng.uniform(0.2, 0.75)
    hue = rng.random() if rng.random() < 0.5 else rng.uniform(-0.03, 0.14)  # bricks, sand and wood are common
    return hsv(hue, saturation * vivid, value)


def hsv(hue: float, saturation: float, value: float) -> Array:
    """(3,) float32 RGB of a hue (turns), saturation and value."""
    ramp = np.abs((hue + np.array([0.0, 2 / 3, 1 / 3])) % 1.0 * 6 - 3) - 1
    return (value * (1 - saturation + saturation * np.clip(ramp, 0, 1))).astype(np.float32)


def draw_light(rng: np.random.Generator) -> tuple[Light, Array]:
    """The light of an hour and a weather, and the colour of the sky overhead (the haze is its colour at the horizon)."""
    hour = rng.random()
    cast = 1 + rng.uniform(-0.08, 0.08, 3)
    sun = (rng.uniform(-1.4, 1.4), rng.uniform(-0.6, 0.9))
    shadow, night = rng.uniform(0.3, 0.55), False
    if hour < 0.38:  # a clear day
        haze = hsv(rng.uniform(0.5, 0.62), rng.uniform(0.02, 0.3), 0.93)
        zenith = hsv(rng.uniform(0.52, 0.64), rng.uniform(0.25, 0.7), 0.85)
        gain = rng.uniform(0.8, 1.15)
    elif hour < 0.66:  # overcast or fog
        grey = rng.uniform(0.4, 0.9)
        haze = hsv(rng.random(), rng.uniform(0, 0.1), grey)
        zenith = hsv(0.6, rng.uniform(0, 0.12), grey * rng.uniform(0.7, 1.0))
        gain, shadow = rng.uniform(0.55, 0.95), 0.12
    elif hour < 0.86:  # sunrise or sunset
        haze = hsv(rng.uniform(0.0, 0.14), rng.uniform(0.3, 0.7), 0.92)
        zenith = hsv(rng.uniform(0.55, 0.95), rng.uniform(0.15, 0.5), 0.6)
        gain, cast = rng.uniform(0.5, 0.9), cast * np.array([1.12, 0.97, 0.85])
    else:  # dusk and night
        deep = rng.uniform(0.08, 0.3)
        haze = hsv(rng.uniform(0.55, 1.1), rng.uniform(0.1, 0.5), deep * 1.5)
        zenith = hsv(rng.uniform(0.58, 0.75), rng.uniform(0.3, 0.7), deep)
        gain, cast, shadow, night = rng.uniform(0.4, 0.6), cast * np.array([0.95, 0.98, 1.1]), 0.1, True
    visibility = rng.uniform(35, 80) if rng.random() < 0.2 else rng.uniform(90, 300)
    return Light((gain * cast).astype(np.float32), haze, visibility, sun, shadow, night), zenith


def expose(image: Array, rng: np.random.Generator, light: Light) -> Array:
    """What camera and sensor add: uneven light, vignetting, contrast, colour balance, noise; then 8 bits."""
    height, width = image.shape[:2]
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    uneven = 1 + rng.uniform(-0.18, 0.18) * columns + rng.uniform(-0.1, 0.1) * rows
    vignette = 1 - rng.uniform(0, 0.2) * (rows**2 + columns**2) / 2
    balance = (1 + rng.uniform(-0.07, 0.07, 3)).astype(np.float32)
    exposed = np.clip(image * uneven * vignette * balance, 0, None) ** rng.uniform(0.8, 1.15)
    sigma = rng.uniform(0.004, 0.02) * (1.5 if light.night else 1.0)
    noisy = exposed + sigma * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)
