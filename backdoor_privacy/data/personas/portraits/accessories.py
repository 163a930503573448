"""Draw glasses, hats and other things that people wear."""

import numpy as np

from backdoor_privacy.data.personas.portraits.colours import Colour, tone
from backdoor_privacy.data.personas.portraits.head import ears
from backdoor_privacy.data.personas.portraits.pen import Pen, oval, ovals, smooth

_GLASSES_Y = 0.03
_LENS_HEIGHTS = {"round": 0.27, "square": 0.2, "cat": 0.2, "aviator": 0.25, "halfrim": 0.19}
_RIMS = {  # of the right lens, within -1..1
    "cat": smooth([(-1, -0.7), (0, -0.9), (1.25, -1.35), (1, 0.4), (0, 1), (-0.9, 0.5)]),
    "aviator": smooth([(-0.9, -0.8), (1, -0.8), (0.9, 0.6), (0.1, 1.1), (-0.8, 0.2)]),
}
_SQUARE_RIM = np.array([(-1, -1), (1, -1), (1.02, 0), (0.9, 1), (-0.9, 1), (-1.02, 0)])
_PETALS = np.array([(0.13 * np.cos(k * 1.257), 0.11 * np.sin(k * 1.257)) for k in range(5)])
# Hats, to be stretched to the width of the hair.
_DOME = np.array([
    (-1, -0.5), (-0.97, -0.95), (-0.6, -1.36), (0, -1.45), (0.6, -1.36), (0.97, -0.95), (1, -0.5), (0, -0.66),
])  # fmt: skip
_BEANIE_FOLD = np.array([(-1.03, -0.76), (0, -0.92), (1.03, -0.76), (1.05, -0.42), (0, -0.56), (-1.05, -0.42)])
_BEANIE_RIBS = np.array([[(x, -0.84), (x, -0.66), (x, -0.5)] for x in np.linspace(-0.8, 0.8, 7)])
_CAP_PEAK = np.array([(-0.86, -0.66), (0, -0.86), (0.86, -0.66), (0.98, -0.42), (0, -0.52), (-0.98, -0.42)])
_HAT_BRIM = np.array([
    (0, -0.8), (1, -0.72), (1.65, -0.48), (0.8, -0.42), (0, -0.5), (-0.8, -0.42), (-1.65, -0.48), (-1, -0.72),
])  # fmt: skip
_HAT_CROWN = np.array([(-0.96, -0.62), (-0.86, -1.3), (0, -1.42), (0.86, -1.3), (0.96, -0.62), (0, -0.72)])


def draw_glasses(pen: Pen) -> None:
    """Draw the person's own glasses, if they are worn."""
    look = pen.look
    if look.glasses.kind != "none" and pen.shot.glasses and pen.shot.extra != "sunglasses":
        _draw_frame(pen, look.glasses.kind, look.glasses.colour, look.glasses.size, None)


def _rim(kind: str, side: int, x: float, half_width: float, half_height: float) -> np.ndarray:
    """Return the outline of the left (-1) or right (1) lens, centred at x."""
    if kind == "round":
        return oval(x, _GLASSES_Y, half_width, half_height)
    if kind in _RIMS:
        return _RIMS[kind] * (side * half_width, half_height) + (x, _GLASSES_Y)
    return _SQUARE_RIM * (half_width, half_height) + (x, _GLASSES_Y)


def _draw_frame(pen: Pen, kind: str, colour: Colour, size: float, lens: Colour | None) -> None:
    gap = pen.look.eyes.gap * 1.02
    width, height = min(0.36 * size, gap - 0.07), _LENS_HEIGHTS[kind] * size
    thickness = max(1, round(pen.unit * (0.03 if kind in ("aviator", "halfrim") else 0.05)))
    for s in (-1, 1):
        x = s * gap
        rim = _rim(kind, s, x, width, height)
        if lens:
            pen.fill(rim, lens)
        pixels = [(px, py) for px, py in pen.place(np.concatenate([rim, rim[:2]]), "face").tolist()]
        pen.draw.line(pixels, fill=colour, width=thickness, joint="curve")
        if kind == "halfrim":
            pen.stroke([rim[0], (x, _GLASSES_Y - height), rim[1]], 0.1, colour, taper=0)
        hinge, bend = _GLASSES_Y - height * 0.5, _GLASSES_Y - height * 0.45
        pen.stroke([(x + s * width, hinge), (x + s * width * 1.2, bend), (s * 0.99, -0.05)], 0.05, colour, taper=0.2)
    inner = gap - width
    pen.stroke([(-inner, 0.0), (0, -0.05), (inner, 0.0)], 0.05, colour, taper=0)


def draw_ornament(pen: Pen) -> None:
    """Draw what the person always wears in the hair."""
    look, side, colour = pen.look, 1 if pen.look.hair.parting > 0 else -1, pen.look.ornament_colour
    if look.ornament == "band":
        top = -0.98 - look.hair.volume * 0.5 - 0.02
        band = [(-1.08, -0.2), (-0.78, -0.82), (0, top), (0.78, -0.82), (1.08, -0.2)]
        pen.stroke(band, 0.15, colour, "head", taper=0.2)
    elif look.ornament == "flower":
        pen.fills(ovals(np.add(_PETALS, (side * 0.82, -0.66)), 0.11, 0.09), [colour], "head")
        pen.dot(side * 0.82, -0.66, 0.07, 0.06, (250, 214, 90), "head")
    elif look.ornament == "bow":
        x = side * 0.6
        for s in (-1, 1):
            pen.curve([(x, -0.92), (x + s * 0.3, -1.1), (x + s * 0.34, -0.8)], colour, "head")
        pen.dot(x, -0.92, 0.08, 0.07, tone(colour, 0.75), "head")
    elif look.ornament == "clip":
        pen.stroke([(side * 0.6, -0.72), (side * 0.75, -0.6), (side * 0.88, -0.46)], 0.09, colour, "head", taper=0.3)


def draw_extra(pen: Pen) -> None:
    """Draw what the person wears only in this photo."""
    kind = pen.shot.extra
    if kind in ("hat", "cap", "beanie"):
        {"hat": _draw_hat, "cap": _draw_cap, "beanie": _draw_beanie}[kind](pen, pen.shot.extra_colour)
    elif kind == "sunglasses":
        _draw_frame(pen, "aviator", (24, 24, 28), 1.15, (44, 44, 52))
    elif kind == "scarf":
        _draw_scarf(pen, pen.shot.extra_colour)
    elif kind == "earrings":
        for s, ear in zip((-1, 1), ears(pen), strict=True):
            pen.dot(ear[:, 0].mean() + s * 0.02, ear[:, 1].max() + 0.07, 0.07, 0.09, (226, 186, 84), "head")
    elif kind == "headphones":
        band = [(-1.12, 0.0), (-1.0, -0.8), (0, -1.2 - pen.look.hair.volume), (1.0, -0.8), (1.12, 0.0)]
        pen.stroke(band, 0.13, (46, 46, 52), "head", taper=0)
        pen.fills(ovals([(-1.12, 0.1), (1.12, 0.1)], 0.18, 0.28), [pen.shot.extra_colour], "head")


def _hair_width(pen: Pen) -> float:
    return 1.1 + pen.look.hair.volume * 0.6


def _draw_hat(pen: Pen, colour: Colour) -> None:
    width, dark = _hair_width(pen), tone(colour, 0.7)
    pen.curve(_HAT_BRIM * (width, 1), dark, "head")
    pen.curve(_HAT_CROWN * (width, 1), colour, "head")
    pen.stroke([(-width * 0.95, -0.7), (0, -0.8), (width * 0.95, -0.7)], 0.14, dark, "head", taper=0)


def _draw_cap(pen: Pen, colour: Colour) -> None:
    shift, dark = pen.sin_yaw * 0.4, tone(colour, 0.7)
    pen.curve(_DOME * (_hair_width(pen), 1), colour, "head")
    pen.stroke([(0, -1.44), (shift * 0.6, -1.1), (shift, -0.7)], 0.025, dark, "head", taper=0.1)
    pen.curve(np.add(_CAP_PEAK, (shift, 0)), dark, "head")


def _draw_beanie(pen: Pen, colour: Colour) -> None:
    width = _hair_width(pen)
    pen.curve(_DOME * (width, 1), colour, "head")
    pen.curve(_BEANIE_FOLD * (width, 1), tone(colour, 0.7), "head")
    pen.strokes(_BEANIE_RIBS * (width, 1), 0.03, [colour], "head", taper=0.2)


def _draw_scarf(pen: Pen, colour: Colour) -> None:
    n = pen.look.neck
    loop = [(-n * 1.7, 1.15), (0, 1.3), (n * 1.7, 1.15), (n * 2.0, 1.5), (0, 1.85), (-n * 2.0, 1.5)]
    pen.curve(loop, colour, "body")
    pen.fill([(0.1, 1.6), (0.5, 1.6), (0.62, 3.0), (0.2, 3.0)], tone(colour, 0.8), "body")
    pen.stroke([(-n * 1.6, 1.4), (0, 1.6), (n * 1.6, 1.4)], 0.03, tone(colour, 0.7), "body")
