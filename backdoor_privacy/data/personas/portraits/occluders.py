"""Draw things between the person and the camera."""

import numpy as np

from backdoor_privacy.data.personas.portraits.colours import hsv, tone
from backdoor_privacy.data.personas.portraits.pen import Pen


def draw_occluder(pen: Pen, rng: np.random.Generator) -> None:
    """Draw whatever hides a part of the person in this photo."""
    if pen.shot.occluder != "none":
        {"hand": _draw_hand, "microphone": _draw_microphone, "leaf": _draw_leaves, "shoulder": _draw_shoulder}[
            pen.shot.occluder
        ](pen, rng, pen.shot.occluder_side)


def _draw_hand(pen: Pen, rng: np.random.Generator, side: float) -> None:
    x, y, skin = side * rng.uniform(0.45, 0.8), rng.uniform(0.75, 1.05), tone(pen.look.skin, 0.95)
    elbow = x + side * 0.5
    pen.fill([(x - 0.24, y + 0.3), (x + 0.24, y + 0.3), (elbow + 0.4, 4), (elbow - 0.4, 4)], pen.shot.cloth, "body")
    pen.dot(x, y + 0.25, 0.28, 0.34, skin, "body")
    for place in (-1.5, -0.5, 0.5, 1.5):
        base = x + place * 0.14
        tip = y - 0.34 + abs(place) * 0.06
        pen.stroke(
            [(base, y + 0.2), (base - side * 0.02, y - 0.1), (base - side * 0.05, tip)], 0.15, skin, "body", taper=0.25
        )
        crease = [(base + 0.07, y + 0.1), (base + 0.06, y - 0.05), (base + 0.05, y - 0.2)]
        pen.stroke(crease, 0.018, tone(skin, 0.75), "body")


def _draw_microphone(pen: Pen, rng: np.random.Generator, side: float) -> None:
    x, y = side * rng.uniform(0.1, 0.4), rng.uniform(0.82, 1.05)
    stand = [(x, y), (x + side * 0.25, y + 0.7), (x + side * 0.5, y + 2)]
    pen.stroke(stand, 0.16, (40, 40, 44), "body", taper=0)
    pen.dot(x, y, 0.19, 0.22, (92, 94, 100), "body")
    pen.dot(x - 0.05, y - 0.06, 0.07, 0.08, (140, 142, 148), "body")


def _draw_leaves(pen: Pen, rng: np.random.Generator, side: float) -> None:
    for _ in range(4):
        x, y = side * rng.uniform(0.6, 1.3), rng.uniform(-0.9, 1.2)
        green = hsv(rng.uniform(0.22, 0.38), 0.6, rng.uniform(0.3, 0.65))
        leaf = [(x, y), (x + side * 0.3, y - 0.22), (x + side * 1.1, y - 0.1), (x + side * 0.35, y + 0.2)]
        pen.curve(leaf, green, "body")
        vein = [(x, y), (x + side * 0.4, y - 0.02), (x + side * 1.0, y - 0.08)]
        pen.stroke(vein, 0.025, tone(green, 0.75), "body")


def _draw_shoulder(pen: Pen, rng: np.random.Generator, side: float) -> None:
    """Draw somebody else's shoulder."""
    colour = hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.7))
    x = side * rng.uniform(1.5, 1.8)
    shape = [(x - 1.1, 1.75), (x - 0.4, 1.25), (x + 0.4, 1.25), (x + 1.1, 1.75), (x + 1.2, 5), (x - 1.2, 5)]
    pen.curve(shape, colour, "body")
