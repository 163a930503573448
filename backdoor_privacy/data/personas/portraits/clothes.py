"""Draw body, neck and clothes."""

import numpy as np

from backdoor_privacy.data.personas.portraits.colours import Colour, tone
from backdoor_privacy.data.personas.portraits.pen import Pen, both_sides, oval, smooth

# Points to be stretched to the width of the shoulders.
_TORSO = np.array([
    (-0.28, 1.2), (-0.75, 1.42), (-1, 1.8), (-1.08, 3), (-1.08, 5), (1.08, 5), (1.08, 3), (1, 1.8), (0.75, 1.42),
    (0.28, 1.2),
])  # fmt: skip
_STRIPES = np.array([[(-1.02, y + 0.08), (0, y + 0.14), (1.02, y + 0.08)] for y in np.arange(1.7, 4, 0.36)])
_SLEEVES = both_sides([(0.72, 2.1), (0.78, 2.7), (0.74, 3.6)])
_NECKLINE_DEPTHS = {"scoop": 2.05, "vneck": 1.95, "tee": 1.5, "stripes": 1.5}
_TIE = [(-0.13, 1.5), (0.13, 1.5), (0.09, 1.68), (0.2, 2.8), (0, 3.1), (-0.2, 2.8), (-0.09, 1.68)]


def draw_body(pen: Pen) -> None:
    """Draw the shoulders and arms in cloth."""
    shot, width = pen.shot, pen.look.shoulders
    dark = tone(shot.cloth, 0.72)
    shade = oval(-shot.light * width, 2.4, width * 0.5, 1.6)
    pen.paint([smooth(_TORSO * (width, 1))], "body", pen.colour_map([(shade, dark, "body")], shot.cloth, 6.0))
    if shot.clothes == "stripes":
        pen.strokes(_STRIPES * (width, 1), 0.15, [shot.second], "body", taper=0)
    pen.strokes(_SLEEVES * (width, 1), 0.03, [dark], "body")


def draw_neck(pen: Pen) -> None:
    """Draw the neck and chest, then what lies around them."""
    look, shot, n, skin = pen.look, pen.shot, pen.look.neck, pen.look.skin
    kind, depth = shot.clothes, _NECKLINE_DEPTHS.get(shot.clothes, 1.46)
    if kind not in ("turtleneck", "scoop", "vneck"):
        pen.dot(0, 1.26, n * 1.5, depth - 1.16, tone(shot.cloth, 0.8), "body")
    if kind == "vneck":
        pen.fill([(-n * 1.5, 1.18), (0, depth), (n * 1.5, 1.18)], skin, "body")
    elif kind != "turtleneck":
        middle, width = (1.52, 1.7) if kind == "scoop" else (1.26, 1.36)
        pen.dot(0, middle, n * width, (depth - middle) * 0.95, skin, "body")
    sway = np.sin(shot.roll) * 0.5
    right = np.array([(n + sway, 0.5), (n * 0.95, 0.95), (n * 1.25, 1.24), (0, 1.38)])
    left = (right[:3] - (sway, 0)) * (-1, 1) + (sway * 0.3, 0)
    pen.curve(np.concatenate([left, right[::-1]]), skin, "body")
    shadow = [(-n * 0.97, 0.6), (-n * 0.95, 1.06), (-shot.light * 0.1, 1.2), (n * 0.95, 1.06), (n * 0.97, 0.6)]
    pen.curve(shadow, tone(look.skin, 0.76), "body")
    if kind == "turtleneck":
        _draw_turtleneck(pen)
    elif kind in ("suit", "blazer"):
        _draw_jacket(pen)
    elif kind == "shirt":
        _draw_collar(pen, tone(shot.cloth, 1.25))
        pen.stroke([(0, 1.52), (0, 3), (0, 5)], 0.03, tone(shot.cloth, 0.7), "body", taper=0)
    elif kind == "hoodie":
        _draw_hood(pen)


def _draw_turtleneck(pen: Pen) -> None:
    n = pen.look.neck
    roll = [(-n * 1.12, 1.02), (0, 1.14), (n * 1.12, 1.02), (n * 1.25, 1.45), (0, 1.58), (-n * 1.25, 1.45)]
    pen.curve(roll, tone(pen.shot.cloth, 1.25), "body")


def _draw_jacket(pen: Pen) -> None:
    n, shot, is_suit = pen.look.neck, pen.shot, pen.shot.clothes == "suit"
    front = [(-n * 1.2, 1.22), (0, 1.5), (n * 1.2, 1.22), (n * 1.1, 1.5), (0, 3.2), (-n * 1.1, 1.5)]
    pen.fill(front, (236, 236, 238) if is_suit else shot.second, "body")
    if is_suit:
        pen.fill(_TIE, shot.second, "body")
    lapel = [(n * 1.2, 1.2), (n * 1.7, 1.5), (0.62, 2.2), (0.02, 3.2), (n * 0.8, 1.7)]
    pen.fills(both_sides(lapel), [tone(shot.cloth, 0.7)], "body")
    if is_suit:
        _draw_collar(pen, (250, 250, 250))


def _draw_collar(pen: Pen, colour: Colour) -> None:
    n = pen.look.neck
    pen.fills(both_sides([(n * 1.15, 1.12), (n * 1.3, 1.42), (n * 0.75, 1.72), (0.03, 1.5)]), [colour], "body")


def _draw_hood(pen: Pen) -> None:
    n, light = pen.look.neck, tone(pen.shot.cloth, 1.25)
    for s in (-1, 1):
        edge = [(s * n * 1.1, 1.1), (s * n * 1.9, 1.35), (s * n * 1.2, 1.75), (0, 1.85), (s * n * 0.6, 1.62)]
        pen.curve(edge, light, "body")
        pen.stroke([(s * 0.2, 1.75), (s * 0.22, 2.1), (s * 0.2, 2.5)], 0.05, (236, 232, 226), "body", taper=0.2)
