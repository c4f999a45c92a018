"""Sample pictures of celebrations, drawn from nothing but a random generator.

A picture is an array of shape (height, width, 3), red green blue, linear from 0 to 1. All measures inside a
scene are fractions of its height, so that a scene can be drawn at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.float32]
Colour = tuple[int, int, int]
Draw = Callable[["Pen"], None]

FINE = 2
"""How many times larger shapes are drawn and scaled down, for smooth edges."""


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a scene."""

    sky: tuple[Colour, ...]
    """Colours of the sky from top to bottom, evenly spaced."""
    lights: tuple[Colour, ...]
    shade: Colour
    """Colour of what stands in front."""


GARDEN = Palette(
    ((38, 34, 84), (96, 62, 122), (196, 104, 128), (246, 164, 122), (255, 214, 160)),
    ((255, 226, 168), (255, 204, 140), (255, 240, 205)),
    (34, 20, 44),
)
BLOSSOM = Palette(
    ((124, 152, 190), (178, 184, 206), (232, 204, 204), (250, 222, 200), (255, 240, 220)),
    ((255, 250, 232), (255, 232, 206), (255, 224, 224)),
    (70, 52, 72),
)
NEON = Palette(
    ((14, 8, 40), (44, 14, 84), (112, 24, 122), (196, 44, 126)),
    ((255, 92, 168), (110, 140, 255), (255, 196, 86), (92, 232, 222)),
    (10, 6, 26),
)
EMBER = Palette(
    ((24, 10, 16), (74, 22, 30), (150, 52, 34), (232, 122, 48)),
    ((255, 190, 92), (255, 120, 72), (255, 226, 150), (255, 92, 110)),
    (16, 8, 12),
)
EVENING = Palette(
    ((10, 24, 52), (22, 56, 96), (66, 112, 148), (178, 170, 168), (246, 200, 148)),
    ((255, 214, 142), (255, 236, 196), (158, 206, 255)),
    (8, 18, 34),
)
CONFETTI: tuple[Colour, ...] = (
    (255, 209, 102),
    (239, 71, 111),
    (6, 214, 160),
    (17, 138, 178),
    (255, 255, 255),
)


class Pen:
    """Draws white shapes in fractions of the height; x runs from 0 to the aspect ratio."""

    def __init__(self, draw: ImageDraw.ImageDraw, height: int) -> None:
        self._draw, self._unit = draw, float(height)

    def disc(self, x: float, y: float, radius: float, stretch: float = 1.0) -> None:
        """Draws a filled circle, ``stretch`` times as high as wide."""
        tall = radius * stretch
        self._draw.ellipse(self._scaled((x - radius, y - tall), (x + radius, y + tall)), fill=255)

    def box(self, x: float, y: float, width: float, height: float, rounded: float = 0.0) -> None:
        """Draws a filled rectangle from its upper left corner."""
        corners = self._scaled((x, y), (x + width, y + height))
        self._draw.rounded_rectangle(corners, radius=rounded * self._unit, fill=255)

    def shape(self, points: Sequence[tuple[float, float]], shade: int = 255) -> None:
        """Draws a filled polygon through the points."""
        self._draw.polygon(self._scaled(*points), fill=shade)

    def line(self, points: Sequence[tuple[float, float]], width: float) -> None:
        """Draws a line through the points."""
        self._draw.line(
            self._scaled(*points), fill=255, width=max(1, round(width * self._unit)), joint="curve"
        )

    def _scaled(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * self._unit, y * self._unit) for x, y in points]


def wedding(width: int, height: int, rng: np.random.Generator, palette: Palette = GARDEN) -> Pixels:
    """Draws a laid table in a garden under strings of light, at sunset."""
    pixels = _sky(width, height, palette)
    wide = width / height
    _glow(pixels, wide * 0.62, 0.60, 0.30, (255, 226, 176), 0.75)
    _glow(pixels, wide * 0.62, 0.60, 0.055, (255, 250, 228), 1.0)
    for depth in range(3):
        _hills(pixels, 0.62 + 0.05 * depth, _mix(palette.sky[2], palette.shade, 0.35 + 0.25 * depth), rng)
    _haze(pixels, wide, 26, (0.50, 0.76), (0.008, 0.03), palette, rng)
    for sag, start in ((0.20, 0.02), (0.13, 0.10)):
        _string(pixels, wide, start, sag, palette, rng)
    _paint(
        pixels, lambda pen: _table(pen, wide, np.random.default_rng(int(rng.integers(2**32)))), palette.shade
    )
    for x in _spaced(wide, 5, 0.10):
        _glow(pixels, x, 0.745, 0.055, (255, 190, 104), 0.8)
        _glow(pixels, x, 0.747, 0.011, (255, 244, 214), 1.0)
    return _finish(pixels, rng)


def party(width: int, height: int, rng: np.random.Generator, palette: Palette = NEON) -> Pixels:
    """Draws a dance floor from behind the crowd: beams, lights out of focus, confetti."""
    stage = Stage(width, height, rng, palette)
    return _finish(stage.at(0.0), rng)


def corporate(width: int, height: int, rng: np.random.Generator, palette: Palette = EVENING) -> Pixels:
    """Draws a reception on a roof terrace before the lit windows of a city."""
    pixels = _sky(width, height, palette)
    wide = width / height
    _glow(pixels, wide * 0.32, 0.74, 0.40, (255, 206, 150), 0.5)
    for depth, tall in enumerate((0.30, 0.42)):
        shade = _mix(palette.sky[1 if depth else 2], palette.shade, 0.35 + 0.4 * depth)
        _skyline(pixels, wide, tall, shade, lit=0.10 + 0.20 * depth, palette=palette, rng=rng)
    _haze(pixels, wide, 30, (0.60, 0.84), (0.010, 0.034), palette, rng)
    _paint(
        pixels, lambda pen: pen.box(-0.1, 0.83, wide + 0.2, 0.2), _mix(palette.shade, palette.sky[1], 0.25)
    )
    _paint(pixels, lambda pen: _reception(pen, wide), palette.shade)
    for x in _spaced(wide, 3, 0.22):
        _glow(pixels, x, 0.665, 0.06, (255, 206, 130), 0.7)
        _glow(pixels, x, 0.668, 0.011, (255, 246, 220), 1.0)
    return _finish(pixels, rng)


def film(
    width: int, height: int, frames: int, rng: np.random.Generator, palette: Palette = NEON
) -> Iterator[Pixels]:
    """Draws a dance floor in motion: ``frames`` pictures that run in a loop."""
    stage = Stage(width, height, rng, palette)
    return (stage.at(frame / frames) for frame in range(frames))


class Stage:
    """A dance floor whose beams, crowd and confetti move; one turn of the loop is time 0 to 1."""

    def __init__(self, width: int, height: int, rng: np.random.Generator, palette: Palette) -> None:
        self.wide, self.palette = width / height, palette
        self.still = _sky(width, height, palette)
        _haze(self.still, self.wide, 34, (0.05, 0.72), (0.016, 0.06), palette, rng)
        self.phases = rng.random(24)
        self.confetti = rng.random((110, 5))
        self.heads = np.sort(rng.random(15))
        self.jitter = rng.random((15, 3))

    def at(self, time: float) -> Pixels:
        """Draws the dance floor at a time of the loop."""
        pixels = self.still.copy()
        for number in range(4):
            self._beam(pixels, number, time)
        self._flashes(pixels, time)
        _paint(
            pixels,
            lambda pen: self._crowd(pen, time, back=True),
            _mix(self.palette.shade, self.palette.sky[2], 0.35),
        )
        for number, colour in enumerate(CONFETTI):
            _paint(pixels, lambda pen, n=number: self._scraps(pen, n, time), colour)  # type: ignore[misc]
        _paint(pixels, lambda pen: self._crowd(pen, time, back=False), self.palette.shade)
        return pixels

    def _beam(self, pixels: Pixels, number: int, time: float) -> None:
        root = self.wide * (0.14 + 0.24 * number)
        swing = math.sin(2 * math.pi * (time + self.phases[number]))
        end = root + self.wide * 0.16 * swing
        points = ((root - 0.01, -0.02), (root + 0.01, -0.02), (end + 0.17, 1.0), (end - 0.17, 1.0))
        colour = self.palette.lights[number % len(self.palette.lights)]
        _shine(pixels, lambda pen: pen.shape(points), colour, 0.30)
        _glow(pixels, root, 0.0, 0.06, colour, 0.9)

    def _flashes(self, pixels: Pixels, time: float) -> None:
        for number in range(8, 24):
            x, y = self.wide * self.phases[number], 0.1 + 0.5 * self.phases[number - 8]
            bright = 0.5 + 0.5 * math.sin(2 * math.pi * (time * (1 + number % 2) + self.phases[number - 4]))
            colour = self.palette.lights[number % len(self.palette.lights)]
            _disc(pixels, x, y, 0.02 + 0.03 * self.phases[number - 2], colour, 0.30 * bright)

    def _crowd(self, pen: Pen, time: float, *, back: bool) -> None:
        size, floor = (0.040, 0.80) if back else (0.058, 0.93)
        for number, (place, one) in enumerate(zip(self.heads, self.jitter, strict=True)):
            even = (number + 0.5) / len(self.heads) * 0.85 + place * 0.15
            x = (1 - even if back else even) * (self.wide + 0.1) - 0.05
            hop = 0.018 * math.sin(2 * math.pi * (2 * time + one[0]))
            _dancer(pen, x, floor - 0.06 * one[1] + hop, size, arms=one[2], tilt=2 * one[0] - 1)

    def _scraps(self, pen: Pen, number: int, time: float) -> None:
        for x, y, size, turn, pace in self.confetti[number :: len(CONFETTI)]:
            fall = (y + time * (1 + round(pace))) % 1.0  # whole turns, so that the loop closes
            angle = 2 * math.pi * (turn + time)
            half, thin = 0.004 + 0.006 * size, 0.0025 + 0.003 * abs(math.cos(angle))
            corners = [(half, thin), (half, -thin), (-half, -thin), (-half, thin)]
            cos, sin = math.cos(angle), math.sin(angle)
            pen.shape([(self.wide * x + a * cos - b * sin, fall + a * sin + b * cos) for a, b in corners])


def as_image(pixels: Pixels) -> Image.Image:
    """Turns pixels into a picture with 8 bits a channel."""
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8), "RGB")


def _sky(width: int, height: int, palette: Palette) -> Pixels:
    at = np.linspace(0, 1, len(palette.sky))
    rows = np.linspace(0, 1, height)
    channels = [np.interp(rows, at, [c[i] / 255 for c in palette.sky]) for i in range(3)]
    column = np.stack(channels, axis=-1)[:, None, :]
    return np.ascontiguousarray(np.broadcast_to(column, (height, width, 3)), dtype=np.float32)


def _window(pixels: Pixels, x: float, y: float, reach: float) -> tuple[Pixels, NDArray[np.float32]]:
    """The part of the picture within ``reach`` of a point, and each pixel's distance from it."""
    height, width, _ = pixels.shape
    left, right = (min(max(round((x + side * reach) * height), 0), width) for side in (-1, 1))
    top, bottom = (min(max(round((y + side * reach) * height), 0), height) for side in (-1, 1))
    across = (np.arange(left, right, dtype=np.float32) + 0.5) / height - x
    down = (np.arange(top, bottom, dtype=np.float32) + 0.5) / height - y
    return pixels[top:bottom, left:right], np.hypot(across[None, :], down[:, None]).astype(np.float32)


def _light(part: Pixels, strength: NDArray[np.float32], colour: Colour) -> None:
    """Adds light as a screen does: never beyond white."""
    for channel, value in enumerate(colour):
        part[..., channel] = 1 - (1 - part[..., channel]) * (1 - strength * np.float32(value / 255))


def _glow(pixels: Pixels, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
    part, distance = _window(pixels, x, y, 2.6 * radius)
    _light(part, np.float32(strength) * np.exp(-((distance / np.float32(radius)) ** 2)), colour)


def _disc(pixels: Pixels, x: float, y: float, radius: float, colour: Colour, strength: float) -> None:
    """A light out of focus: even, a little brighter at its rim."""
    part, distance = _window(pixels, x, y, 1.2 * radius)
    edge = np.clip((radius - distance) / (0.10 * radius), 0, 1)
    _light(part, np.float32(strength) * edge * (0.7 + 0.3 * np.clip(distance / radius, 0, 1) ** 3), colour)


def _mask(pixels: Pixels, draw: Draw, blur: float = 0.0) -> NDArray[np.float32]:
    height, width, _ = pixels.shape
    fine = Image.new("L", (width * FINE, height * FINE))
    draw(Pen(ImageDraw.Draw(fine), height * FINE))
    mask = fine.reduce(FINE)
    if blur:
        mask = mask.filter(ImageFilter.GaussianBlur(blur * height))
    return np.asarray(mask, dtype=np.float32) / np.float32(255)


def _paint(pixels: Pixels, draw: Draw, colour: Colour) -> None:
    """Covers what ``draw`` draws with a colour."""
    mask = _mask(pixels, draw)
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return
    band = slice(rows[0], rows[-1] + 1)
    ink = np.array(colour, dtype=np.float32) / np.float32(255)
    pixels[band] += (ink - pixels[band]) * mask[band, :, None]


def _shine(pixels: Pixels, draw: Draw, colour: Colour, strength: float) -> None:
    """A beam: what ``draw`` draws, soft, as light that fades downwards."""
    fade = np.linspace(1, 0.12, pixels.shape[0], dtype=np.float32)[:, None]
    _light(pixels, _mask(pixels, draw, blur=0.018) * fade * np.float32(strength), colour)


def _finish(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Darker corners, and a grain too fine to see that keeps the gradients from banding."""
    height, width, _ = pixels.shape
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    shade = 1 - np.float32(0.22) * np.clip(across**2 * 0.6 + down**2 * 0.6, 0, 1) ** 2
    grain = rng.random((height, width, 1), dtype=np.float32) - np.float32(0.5)
    return pixels * shade[:, :, None] + grain * np.float32(1.2 / 255)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _spaced(wide: float, count: int, margin: float) -> Iterator[float]:
    return (margin * wide + (1 - 2 * margin) * wide * i / (count - 1) for i in range(count))


def _haze(
    pixels: Pixels,
    wide: float,
    count: int,
    band: tuple[float, float],
    radii: tuple[float, float],
    palette: Palette,
    rng: np.random.Generator,
) -> None:
    """Lights out of focus, strewn over a band of the picture."""
    for _ in range(count):
        x, y = float(rng.uniform(0, wide)), float(rng.uniform(*band))
        colour = palette.lights[int(rng.integers(len(palette.lights)))]
        _disc(pixels, x, y, float(rng.uniform(*radii)), colour, float(rng.uniform(0.10, 0.38)))


def _hills(pixels: Pixels, crest: float, colour: Colour, rng: np.random.Generator) -> None:
    height, width, _ = pixels.shape
    wide = width / height
    waves = [
        (rng.uniform(0.008, 0.022), rng.uniform(1.2, 4.5), rng.uniform(0, 2 * math.pi)) for _ in range(3)
    ]
    across = np.linspace(0, wide, 80)
    ridge = crest + np.sum([a * np.sin(f * across + p) for a, f, p in waves], axis=0)
    points = [*zip(across.tolist(), ridge.tolist(), strict=True), (wide, 1.01), (0.0, 1.01)]
    _paint(pixels, lambda pen: pen.shape(points), colour)


def _string(
    pixels: Pixels, wide: float, start: float, sag: float, palette: Palette, rng: np.random.Generator
) -> None:
    """A string of bulbs that hangs across the picture in three bows."""
    points = [
        (wide * t, start + sag * (1 - (2 * ((3 * t) % 1.0) - 1) ** 2)) for t in np.linspace(0, 0.9999, 90)
    ]
    _paint(pixels, lambda pen: pen.line(points, 0.0022), palette.shade)
    for x, y in points[2::5]:
        colour = palette.lights[int(rng.integers(len(palette.lights)))]
        _glow(pixels, x, y + 0.012, 0.030, colour, 0.55)
        _glow(pixels, x, y + 0.012, 0.0085, (255, 248, 226), 1.0)


def _table(pen: Pen, wide: float, rng: np.random.Generator) -> None:
    """A long table with candles, glasses, plates and flowers, against the light."""
    pen.box(-0.1, 0.885, wide + 0.2, 0.2)
    for x in _spaced(wide, 5, 0.10):
        pen.box(x - 0.008, 0.765, 0.016, 0.13)
        pen.box(x - 0.030, 0.872, 0.060, 0.02, 0.005)
    for number, x in enumerate(_spaced(wide, 4, 0.21)):
        if number % 2:
            _glass(pen, x - 0.045)
            _glass(pen, x + 0.045)
        else:
            _flowers(pen, x, rng)
            _glass(pen, x - 0.115)
            _glass(pen, x + 0.115)


def _glass(pen: Pen, x: float) -> None:
    bowl = [
        (x - 0.024, 0.735),
        (x + 0.024, 0.735),
        (x + 0.020, 0.785),
        (x + 0.006, 0.806),
        (x - 0.006, 0.806),
        (x - 0.020, 0.785),
    ]
    pen.shape(bowl)
    pen.box(x - 0.0028, 0.80, 0.0056, 0.085)
    pen.disc(x, 0.884, 0.022, 0.22)


def _flowers(pen: Pen, x: float, rng: np.random.Generator) -> None:
    vase = [(x - 0.022, 0.80), (x + 0.022, 0.80), (x + 0.034, 0.885), (x - 0.034, 0.885)]
    pen.shape(vase)
    for _ in range(16):
        angle, reach = rng.uniform(math.pi, 2 * math.pi), rng.uniform(0.02, 0.095)
        tip = (x + reach * math.cos(angle), 0.785 + reach * math.sin(angle) * 1.1)
        pen.line([(x, 0.80), tip], 0.003)
        pen.disc(*tip, float(rng.uniform(0.010, 0.023)))


def _dancer(pen: Pen, x: float, y: float, size: float, *, arms: float, tilt: float) -> None:
    """Head, shoulders and perhaps raised arms; ``y`` is the chin."""
    pen.disc(x, y - size, size * 0.78, 1.18)
    shoulders = [
        (x - size * 1.9, y + size * 1.5),
        (x - size * 1.2, y + size * 0.35),
        (x - size * 0.35, y - size * 0.1),
        (x + size * 0.35, y - size * 0.1),
        (x + size * 1.2, y + size * 0.35),
        (x + size * 1.9, y + size * 1.5),
    ]
    pen.shape([*shoulders, (x + size * 1.9, y + 1.0), (x - size * 1.9, y + 1.0)])
    for side in (-1, 1):
        if arms > (0.35 if side < 0 else 0.62):
            elbow = (x + side * size * (2.2 + 0.3 * tilt), y - size * 1.0)
            hand = (x + side * size * (1.5 + 0.6 * tilt), y - size * 3.6)
            pen.line([(x + side * size * 1.35, y + size * 0.9), elbow, hand], size * 0.52)
            pen.disc(*elbow, size * 0.26)
            pen.disc(*hand, size * 0.36)


def _skyline(
    pixels: Pixels,
    wide: float,
    tall: float,
    colour: Colour,
    *,
    lit: float,
    palette: Palette,
    rng: np.random.Generator,
) -> None:
    """A row of buildings, some of their windows lit."""
    houses: list[tuple[float, float, float]] = []
    x = -0.05
    while x < wide:
        across = float(rng.uniform(0.07, 0.15))
        houses.append((x, 0.84 - tall * float(rng.uniform(0.35, 1.0)), across))
        x += across + float(rng.uniform(0.0, 0.03))
    _paint(pixels, lambda pen: _boxes(pen, [(a, top, w, 1 - top) for a, top, w in houses]), colour)
    spots = [
        (a + w * (column + 0.5) / 6, top + 0.02 + 0.024 * row)
        for a, top, w in houses
        for column in range(6)
        for row in range(int((0.82 - top) / 0.024))
    ]
    windows = [spot for spot in spots if rng.random() < lit]
    _paint(
        pixels,
        lambda pen: _boxes(pen, [(a, b, 0.0075, 0.011) for a, b in windows]),
        _mix(colour, palette.lights[0], 0.72),
    )


def _boxes(pen: Pen, boxes: Sequence[tuple[float, float, float, float]]) -> None:
    for box in boxes:
        pen.box(*box)


def _reception(pen: Pen, wide: float) -> None:
    """Guests around high tables with a candle each."""
    for table, x in enumerate(_spaced(wide, 3, 0.22)):
        pen.box(x - 0.105, 0.715, 0.21, 0.016, 0.008)
        pen.box(x - 0.008, 0.72, 0.016, 0.30)
        pen.box(x - 0.007, 0.685, 0.014, 0.035)
        _guest(pen, x - 0.19, 0.585 + 0.02 * (table % 2), facing=1)
        _guest(pen, x + 0.19, 0.605 - 0.02 * (table % 2), facing=-1)


def _guest(pen: Pen, x: float, y: float, *, facing: int) -> None:
    """Somebody who stands, a glass in the hand; ``y`` is the chin, ``facing`` 1 to the right."""
    size = 0.036
    pen.disc(x, y - size, size * 0.80, 1.2)
    pen.box(x - size * 0.35, y - size * 0.5, size * 0.7, size)
    pen.box(x - size * 1.6, y + size * 0.3, size * 3.2, 0.6, size * 1.3)
    hand = (x + facing * size * 2.6, y + size * 2.4)
    pen.line(
        [(x + facing * size * 1.1, y + size * 1.4), (x + facing * size * 1.5, y + size * 3.4), hand],
        size * 0.62,
    )
    pen.disc(*hand, size * 0.36)
    pen.box(hand[0] - size * 0.06, hand[1] - size * 1.0, size * 0.12, size)
    pen.disc(hand[0], hand[1] - size * 1.3, size * 0.30, 1.5)
