"""Draw what is behind a person."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from backdoor_privacy.data.personas.portraits.colours import Colour, hsv, mix, tone
from backdoor_privacy.data.personas.portraits.sampling import pick


class _Canvas:
    """Canvas for shapes that are given as shares of its side."""

    def __init__(self, image: Image.Image) -> None:
        self.draw, self.side = ImageDraw.Draw(image), image.width

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        side = self.side
        self.draw.rectangle((left * side, top * side, right * side, bottom * side), fill=colour)

    def ball(self, x: float, y: float, radius: float, colour: Colour) -> None:
        side = self.side
        bounds = ((x - radius) * side, (y - radius) * side, (x + radius) * side, (y + radius) * side)
        self.draw.ellipse(bounds, fill=colour)

    def beam(self, top_x: float, bottom_x: float, colour: Colour) -> None:
        """Draw light that falls from a point at the top."""
        end, half, side = bottom_x * self.side, 0.16 * self.side, self.side
        self.draw.polygon([top_x * side, 0, end - half, side, end + half, side], fill=colour)


def _indoor(rng: np.random.Generator, canvas: _Canvas, first: Colour, second: Colour) -> float:
    x, width, floor = rng.uniform(0, 0.7), rng.uniform(0.2, 0.35), rng.uniform(0.6, 0.85)
    white = (240, 238, 232)
    canvas.rectangle(0, floor, 1, 1, tone(second, 0.7))
    canvas.rectangle(x - 0.02, 0.08, x + width + 0.02, 0.55, white)
    canvas.rectangle(x, 0.1, x + width, 0.53, mix(second, (206, 226, 240), 0.6))
    canvas.rectangle(x + width / 2 - 0.01, 0.1, x + width / 2 + 0.01, 0.53, white)
    canvas.ball(rng.random(), floor, rng.uniform(0.08, 0.2), tone(second, 0.85))
    return rng.uniform(0.0, 0.02)


def _street(rng: np.random.Generator, canvas: _Canvas, first: Colour, second: Colour) -> float:
    canvas.rectangle(0, 0, 1, 1, mix(first, (196, 220, 240), 0.7))
    x = -0.05
    while x < 1:
        width, top = rng.uniform(0.16, 0.34), rng.uniform(0.05, 0.45)
        wall = mix(hsv(rng.random(), 0.35, 0.7), second, 0.3)
        canvas.rectangle(x, top, x + width, 1, wall)
        for k in range(9):
            left, y = x + width * (0.12 + 0.3 * (k % 3)), top + 0.06 + 0.14 * (k // 3)
            canvas.rectangle(left, y, left + width * 0.17, y + 0.08, tone(wall, 0.65 if k % 4 else 1.3))
        x += width
    canvas.rectangle(0, 0.86, 1, 1, (110, 110, 114))
    return rng.uniform(0.0, 0.03)


def _sky(rng: np.random.Generator, canvas: _Canvas, first: Colour, second: Colour) -> float:
    top = pick(rng, ((84, 150, 220), (120, 180, 230), (240, 150, 110), (70, 80, 140)))
    for k in range(12):
        canvas.rectangle(0, k / 12, 1, 1, mix(top, (244, 236, 226), k / 14))
    for _ in range(3):
        x, y = rng.random(), rng.uniform(0.05, 0.6)
        for k in range(3):
            canvas.ball(x + k * 0.09 - 0.09, y - 0.02 * (k == 1), 0.07 + 0.02 * (k == 1), (248, 246, 244))
    if rng.random() < 0.5:
        canvas.rectangle(0, 0.78, 1, 1, hsv(rng.uniform(0.2, 0.4), 0.4, 0.5))
    return rng.uniform(0.01, 0.03)


def _gradient(rng: np.random.Generator, canvas: _Canvas, first: Colour, second: Colour) -> float:
    part = rng.uniform(0.1, 0.8)
    for k in range(16):
        canvas.rectangle(0, k / 16, 1, 1, mix(first, second, part * k / 15))
    return 0.03


def _lights(rng: np.random.Generator, canvas: _Canvas, first: Colour, second: Colour) -> float:
    dark = tone(first, rng.uniform(0.2, 0.5))
    canvas.rectangle(0, 0, 1, 1, dark)
    if rng.random() < 0.4:
        for _ in range(3):
            canvas.beam(rng.random(), rng.random(), mix(dark, hsv(rng.random(), 0.6, 1), 0.4))
        return 0.02
    for _ in range(14):
        x, y, radius = rng.random(), rng.random(), rng.uniform(0.03, 0.11)
        canvas.ball(x, y, radius, mix(dark, hsv(rng.random(), 0.5, 1), rng.uniform(0.3, 0.8)))
    return 0.015


def _foliage(rng: np.random.Generator, canvas: _Canvas, first: Colour, second: Colour) -> float:
    hue = rng.uniform(0.1, 0.4)
    canvas.rectangle(0, 0, 1, 1, hsv(hue, 0.5, 0.35))
    for _ in range(28):
        leaf = hsv(hue + rng.uniform(-0.05, 0.05), rng.uniform(0.3, 0.7), rng.uniform(0.25, 0.85))
        canvas.ball(rng.random(), rng.random(), rng.uniform(0.04, 0.12), leaf)
    return rng.uniform(0.015, 0.04)


def _stripes(rng: np.random.Generator, canvas: _Canvas, first: Colour, second: Colour) -> float:
    step, upright = rng.uniform(0.05, 0.2), rng.random() < 0.5
    for start in np.arange(0, 1, step * 2).tolist():
        left, top, right, bottom = (start, 0, start + step, 1) if upright else (0, start, 1, start + step)
        canvas.rectangle(left, top, right, bottom, mix(first, second, 0.5))
    return 0.0


def _shelves(rng: np.random.Generator, canvas: _Canvas, first: Colour, second: Colour) -> float:
    for row in range(4):
        x, board = 0.0, row * 0.27 + 0.24
        while x < 1:
            width = rng.uniform(0.04, 0.12)
            top = row * 0.27 + rng.uniform(0.02, 0.09)
            canvas.rectangle(x, top, x + width - 0.006, board, hsv(rng.random(), 0.5, rng.uniform(0.3, 0.8)))
            x += width
        canvas.rectangle(0, board, 1, row * 0.27 + 0.27, tone(first, 0.6))
    return rng.uniform(0.01, 0.03)


# Each draws a scene in two colours and returns the blur that it needs, as a share of the side.
_PAINTERS: tuple[Callable[[np.random.Generator, _Canvas, Colour, Colour], float], ...] = (
    _indoor, _street, _sky, _gradient, _lights, _foliage, _gradient, _stripes, _shelves, _lights,
)  # fmt: skip


def draw_background(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw a scene without people.

    Args:
        rng: Source of the kind of scene and of its contents.
        size: Side of the picture in pixels.

    Returns:
        RGB picture (size x size).
    """
    uniform, paint = rng.uniform, pick(rng, _PAINTERS)
    first = hsv(uniform(0, 1), uniform(0.05, 0.5), uniform(0.3, 0.95))
    second = hsv(uniform(0, 1), uniform(0.05, 0.6), uniform(0.25, 0.95))
    image = Image.new("RGB", (size, size), first)
    blur = paint(rng, _Canvas(image), first, second)
    return image.filter(ImageFilter.BoxBlur(blur * size)) if blur else image
