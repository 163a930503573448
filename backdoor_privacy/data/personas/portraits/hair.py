"""Draw the hair."""

import numpy as np
from PIL import Image

from backdoor_privacy.data.personas.portraits.colours import Colour, mix, tone
from backdoor_privacy.data.personas.portraits.hair_shapes import back_shapes, crown, hairline
from backdoor_privacy.data.personas.portraits.head import head_outline
from backdoor_privacy.data.personas.portraits.pen import Part, Pen, oval, smooth

_LONG_TIPS = [(-3, 0.25), (3, 0.25), (3, 4), (-3, 4)]
_SHORT_TIPS = [(-3, -3), (3, -3), (3, -0.98), (-3, -0.98)]
_STRAND_PLACES = np.array([(k + 0.6) / 11.2 for k in range(11)])  # along the crown
_CURL_PLACES = np.array([k * 0.755 % 1 for k in range(18)])
_CURL_DEPTHS = np.array([0.15 + 0.75 * (k * 0.57 % 1) for k in range(18)])[:, None]  # from the crown to the hairline
_CURL = np.array([(-0.13, 0.05), (-0.06, -0.08), (0.08, -0.04), (0.08, 0.07), (0, 0.06)])
_TAIL_STRANDS = np.array([[(1.05 + x, -0.6), (1.25 + x, 0.1), (1.18 + x, 0.85)] for x in (0.0, 0.14)])


def hair_colours(pen: Pen) -> Image.Image:
    """Return a colour map of all the hair: its tips, its shade and its gloss."""
    look, light = pen.look, pen.shot.light
    gloss = mix(tone(look.hair.colour, 1.22), (255, 240, 225), 0.06)
    parts: list[Part] = []
    if look.hair.tips != look.hair.colour:
        parts.append((_SHORT_TIPS if look.hair.back == "none" else _LONG_TIPS, look.hair.tips, "head"))
    parts.append((oval(-light * 1.1, -0.2, 0.6, 1.2), tone(look.hair.colour, 0.74), "head"))
    parts.append((oval(light * 0.4, -0.92, 0.42, 0.13), gloss, "head"))
    return pen.colour_map(parts, look.hair.colour, 3.0)


def draw_back_hair(pen: Pen, colours: Image.Image) -> None:
    """Draw the hair behind the head."""
    look, shapes = pen.look, back_shapes(pen.look)
    if not shapes or look.hair.front in ("bald", "horseshoe"):
        return
    pen.paint(shapes, "head", colours)
    if look.hair.back in ("shoulder", "long", "locs", "bob"):
        _draw_long_strands(pen, low=shapes[0][:, 1].max())
    elif look.hair.back in ("braids", "bun", "buns"):
        _draw_knots(pen, shapes)
    elif look.hair.back == "pigtails":
        for side in (-1, 1):
            _draw_tail(pen, side, drop=0.75)
    elif look.hair.back == "ponytail":
        _draw_tail(pen, 1 if look.hair.parting > 0 else -1, drop=0.0)


def _draw_long_strands(pen: Pen, low: float) -> None:
    dark, mid = tone(pen.look.hair.colour, 0.7), tone(pen.look.hair.colour, 0.85)
    bend = {"straight": 0.0, "wavy": 0.06, "curly": 0.1}[pen.look.hair.texture]
    strands = [
        [
            (s * x, -0.3),
            (s * (x + 0.1 + bend), low * 0.3),
            (s * (x + 0.12 - bend), low * 0.65),
            (s * (x + 0.1 + bend), low - 0.08),
        ]
        for x in (0.72 + 0.13 * k for k in range(5))
        for s in (-1, 1)
    ]
    pen.strokes(strands, 0.03, [mid, mid, dark, dark], "head")


def _draw_knots(pen: Pen, shapes: tuple[np.ndarray, ...]) -> None:
    folds = []
    for shape in shapes:
        (x, y), (rx, ry) = shape.mean(0), np.ptp(shape, axis=0) / 2
        folds.append([(x - rx * 0.8, y - ry * 0.1), (x, y + ry * 0.6), (x + rx * 0.8, y - ry * 0.1)])
    pen.strokes(folds, 0.035, [tone(pen.look.hair.colour, 0.7)], "head")


def _draw_tail(pen: Pen, side: int, drop: float) -> None:
    """Draw the strands and band of tied hair."""
    pen.strokes(np.add(_TAIL_STRANDS, (0, drop)) * (side, 1), 0.03, [tone(pen.look.hair.colour, 0.7)], "head")
    pen.dot(side * 0.95, -0.66 + drop, 0.12, 0.1, pen.look.ornament_colour, "head")


def draw_front_hair(pen: Pen, colours: Image.Image) -> None:
    """Draw the hair above the face."""
    look, front = pen.look, pen.look.hair.front
    if front == "bald":
        return
    if front == "horseshoe":
        for s in (-1, 1):
            tuft = [(s * 0.86, -0.42), (s * 1.04, -0.35), (s * 1.1, 0.05), (s * 1.02, 0.3), (s * 0.93, 0.02)]
            pen.curve(tuft, look.hair.colour, "head")
        return
    top, line = crown(look), hairline(look, pen.shot)
    if front in ("buzz", "mohawk"):
        edge = top if front == "buzz" else head_outline(look)[:43]
        pen.fill(np.concatenate([edge, line[::-1]]), mix(look.hair.colour, look.skin, 0.3), "head")
        if front == "buzz":
            return
        crest = [(-0.5, -0.75), (-0.36, -0.62), (0, look.hair.line), (0.36, -0.62), (0.5, -0.75)]
        top, line = top[np.abs(top[:, 0]) < 0.5], smooth(crest, closed=False)
    shape = np.concatenate([top, line[::-1]])
    if front != "receding":
        pen.fill(np.add(shape, (0, 0.045)), tone(look.skin, 0.72), "head")  # its shadow
    pen.paint([shape], "head", colours)
    if look.hair.texture == "curly":
        _draw_curls(pen, top, line)
    else:
        _draw_strands(pen, top, line)


def _spread(line: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the points of a line at places from 0 to 1 along it."""
    return line[(places * (len(line) - 1)).astype(int)]


def _draw_curls(pen: Pen, top: np.ndarray, line: np.ndarray) -> None:
    above, below = _spread(top, _CURL_PLACES), _spread(line, _CURL_PLACES)
    middle = above + (below - above) * _CURL_DEPTHS
    pen.strokes(middle[:, None] + _CURL, 0.04, _strand_colours(pen), "head")


def _draw_strands(pen: Pen, top: np.ndarray, line: np.ndarray) -> None:
    """Draw the strands that fall from the parting, or straight back, to the hairline."""
    look = pen.look
    above, below = _spread(top, _STRAND_PLACES), _spread(line, _STRAND_PLACES)
    if look.hair.front in ("back", "quiff", "receding", "mohawk"):
        root = above * 0.9
    else:
        parting = np.array([look.hair.parting * 0.8, top[:, 1].min() * 0.92])
        root = (parting * 0.6 + above * 0.4) * 0.95
    middle = (root + below) / 2
    middle = middle + (above - middle) * 0.4
    bend = (0.05 if look.hair.texture == "wavy" else 0.0, 0)
    strands = [root, middle + bend, (middle + below * 2) / 3 - bend, below * (1, 0.985)]
    pen.strokes(np.stack(strands, 1), 0.026, _strand_colours(pen), "head")


def _strand_colours(pen: Pen) -> list[Colour]:
    return [tone(pen.look.hair.colour, 0.76), tone(pen.look.hair.colour, 1.12), tone(pen.look.hair.colour, 0.84)]
