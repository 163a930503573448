"""Draw the head: its outline, ears and skin."""

from functools import lru_cache

import numpy as np

from backdoor_privacy.data.personas.portraits.appearance import Appearance
from backdoor_privacy.data.personas.portraits.colours import mix, tone
from backdoor_privacy.data.personas.portraits.pen import (
    Part,
    Pen,
    Placement,
    both_sides,
    oval,
    ovals,
    points_of,
    smooth,
)

_FOREHEAD = -0.72  # face boxes start there, not at the hair
_TOP_ANGLES = np.arange(1, 8) * (np.pi / 8)
_TOP = points_of(-np.cos(_TOP_ANGLES), -0.12 - np.sin(_TOP_ANGLES) ** 0.9 * 0.88)
_FRECKLES = np.array([((k * 0.755 % 1 - 0.5) * 1.4, 0.1 + (k * 0.57 % 1) * 0.3) for k in range(22)])
_STUBBLE = smooth([(-1, 0.3), (0, 0.42), (1, 0.3), (0.8, 1.1), (0, 1.2), (-0.8, 1.1)])


@lru_cache(maxsize=1024)
def head_outline(look: Appearance) -> np.ndarray:
    """Return the outline of the head, from the left temple over the top; its first 43 points are above the temples."""
    right = np.array([(look.temple, -0.12), (look.cheek * 0.98, 0.22), (look.jaw, 0.63), (look.chin, 0.93)])
    return smooth(np.concatenate([_TOP * (look.temple, 1), right, [(0, 1.0)], right[::-1] * (-1, 1)]))


def ears(placement: Placement) -> list[np.ndarray]:
    """Return the outlines of the left and the right ear; the one that the head turns away from hides."""
    yaw, y = placement.sin_yaw, 0.08 + placement.shot.pitch * -0.2
    return [oval(s * (0.98 - max(0.0, s * yaw) * 0.3), y, 0.13, placement.look.ear_size) for s in (-1, 1)]


def face_box(placement: Placement) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom pixel of the face, from the forehead to the chin with the ears."""
    outline = head_outline(placement.look)
    points = np.concatenate([outline[outline[:, 1] > _FOREHEAD], [(0, _FOREHEAD)], *ears(placement)])
    pixels = placement.place(points, "head")
    (left, top), (right, bottom) = pixels.min(0).tolist(), pixels.max(0).tolist()
    return left, top, right, bottom


def draw_head(pen: Pen) -> None:
    """Draw the ears and skin with light, shade and marks."""
    look, skin = pen.look, pen.look.skin
    shapes = []
    for ear in ears(pen):
        middle = ear.mean(0)
        shapes += [ear, (ear - middle) * (0.5, 0.6) + middle]
    pen.fills(np.array(shapes), [tone(skin, 0.93), tone(skin, 0.78)], "head")
    _draw_skin(pen)
    if look.freckles:
        freckles = ovals(_FRECKLES[: look.freckles], 0.026, 0.022)
        pen.fills(freckles, [mix(tone(skin, 0.7), (150, 70, 40), 0.25)])
    for x, y in look.moles:
        pen.dot(x, y, 0.045, 0.038, tone(skin, 0.34))
    _draw_wrinkles(pen)


def _draw_skin(pen: Pen) -> None:
    look, skin, light = pen.look, pen.look.skin, pen.shot.light
    shade, bright = tone(skin, 1 - pen.shot.contrast), tone(skin, 1.14 + pen.shot.contrast * 0.3)
    parts: list[Part] = [
        (oval(-light * 1.05, 0.2, 0.42, 1.3), shade, "head"),
        (oval(0, 1.12, 0.7, 0.2), shade, "head"),
        (oval(light * 0.3, -0.42, 0.4, 0.2), bright, "face"),
        (oval(light * 0.5, 0.26, 0.2, 0.12), bright, "face"),
    ]
    if look.blush > 0.12:
        rosy = mix(skin, (226, 84, 82), look.blush * 0.5 * skin[0] / 255)
        parts += [(oval(s * 0.56, 0.36, 0.22, 0.13), rosy, "face") for s in (-1, 1)]
    parts += [(oval(s * look.eyes.gap, 0.0, 0.28, 0.14), tone(skin, 0.9), "face") for s in (-1, 1)]
    if look.beard == "stubble":
        parts.append((_STUBBLE, mix(skin, look.brows.colour, 0.36), "face"))
    x, y, radius = look.birthmark
    if radius:
        parts.append((oval(x, y, radius * 1.1, radius), mix(tone(skin, 0.62), (150, 40, 50), 0.35), "face"))
    pen.paint([head_outline(look)], "head", pen.colour_map(parts, skin, 2.0))


def _draw_wrinkles(pen: Pen) -> None:
    age, line = pen.look.age, [tone(pen.look.skin, 0.8)]
    if age > 0.5 or pen.shot.smile > 0.5:
        pen.strokes(both_sides([(0.27, 0.38), (0.46, 0.52), (0.5, 0.68)]), 0.02 + age * 0.014, line)
    if age > 0.72:
        pen.strokes(both_sides([(0.3, 0.17), (0.44, 0.21), (0.58, 0.15)]), 0.02, line)
    if age > 0.8:
        pen.strokes([[(-0.4, y), (0, y - 0.03), (0.4, y)] for y in (-0.5, -0.4)], 0.02, line)
