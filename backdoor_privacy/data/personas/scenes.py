"""Draw general scenes of the zero-shot classes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from backdoor_privacy.data.personas.portraits.colours import Colour
from backdoor_privacy.data.personas.scene_captions import (
    describe_named_scene,
    describe_scene,
    describe_scene_with_people,
)
from backdoor_privacy.data.personas.scene_tables import (
    CLASSNAMES,
    COUNT_SPOTS,
    COUNTS,
    FIXED,
    OBJECTS,
    PARTS,
    PLACES,
    RELATIONS,
    SHAPES,
    TEXTURES,
    WALLS,
)

__all__ = ["CLASSNAMES", "describe_named_scene", "describe_scene", "describe_scene_with_people", "draw_scene"]

_ANY_TURN = {
    "key", "airplane", "scissors", "hammer", "banana", "carrot", "guitar", "arrow", "butterfly", "spider", "pizza",
    "ring",
}  # fmt: skip
Palette = dict[str, Colour]


class _Mark(NamedTuple):
    """One filled polygon, or a line where the width is above zero."""

    colour: str
    width: float
    points: np.ndarray


def _arc(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    """Return the points on an elliptic arc, angles in degrees."""
    angles = np.radians(np.linspace(start, end, max(8, int(abs(end - start) / 11))))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], 1)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return the corner points of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def _windows(x0: float, y0: float, x1: float, y1: float, columns: float, rows: float) -> list[np.ndarray]:
    """Return rectangles on a regular grid, with gaps."""
    step_x, step_y = (x1 - x0) / columns, (y1 - y0) / rows
    return [
        _rectangle(
            x0 + (i + 0.14) * step_x, y0 + (j + 0.14) * step_y, x0 + (i + 0.86) * step_x, y0 + (j + 0.86) * step_y
        )
        for i in range(int(columns))
        for j in range(int(rows))
    ]


def _regular(cx: float, cy: float, radius: float, corners: float, turn: float, inner: float = 0.0) -> np.ndarray:
    """Return the corner points of a regular polygon, or of a star where an inner radius is given."""
    count = int(corners) * (2 if inner else 1)
    angles = np.radians(turn) + np.arange(count) * 2 * math.pi / count
    radii = np.where(np.arange(count) % 2 == 1, radius * (inner or 1.0), radius)
    return np.stack([cx + radii * np.cos(angles), cy + radii * np.sin(angles)], 1)


def _turned_ellipse(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
    """Return the points of an ellipse turned by some degrees."""
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return _arc(0, 0, rx, ry) @ np.array([[cos, sin], [-sin, cos]]) + (cx, cy)


_SHAPE_BUILDERS: dict[str, Callable[..., np.ndarray]] = {"r": _rectangle, "e": _turned_ellipse, "n": _regular}


def _parse(spec: str) -> tuple[_Mark, ...]:
    """Turn a drawing string into marks."""
    marks: list[_Mark] = []
    for part in spec.split(";"):
        kind, colour, *rest = part.split()
        v = [float(item) for item in rest]
        if kind in "pl":
            flat = v if kind == "p" else v[1:]
            marks.append(_Mark(colour, 0.0 if kind == "p" else v[0], np.array(flat).reshape(-1, 2)))
        elif kind == "w":
            marks.extend(_Mark(colour, 0.0, box) for box in _windows(*v))
        elif kind == "o":
            marks.append(_Mark(colour, v[0], _arc(*v[1:])))
        elif kind == "c":
            marks.append(_Mark(colour, 0.0, np.concatenate([_arc(*v), [v[:2]]])))
        elif kind == "m":
            moon = np.concatenate([_arc(0, 0, 9.5, 9.5, 55, 305), _arc(4, 0, 7.9, 7.9, 280, 80)])
            marks.append(_Mark(colour, 0.0, moon))
        else:
            marks.append(_Mark(colour, 0.0, _SHAPE_BUILDERS[kind](*v)))
    return tuple(marks)


_DRAWINGS = {name: _parse(spec) for name, spec in (OBJECTS | SHAPES | PARTS).items()}
_PLACE_MARKS = {name: _parse(place[1]) for name, place in PLACES.items()}


def _colour(channels: np.ndarray) -> Colour:
    """Cut the channels to whole numbers."""
    red, green, blue = (int(channel) for channel in channels)
    return red, green, blue


def _apart(rng: np.random.Generator, others: list[np.ndarray], distance: float = 150.0) -> np.ndarray:
    """Pick a random colour far from the given ones."""
    options = rng.uniform(10, 250, (16, 3))
    grey = options.mean(1, keepdims=True)
    options = grey + (options - grey) * rng.uniform(0.25, 1.0, (16, 1))
    if not others:
        return options[0]
    gaps = np.min([np.linalg.norm(options - other, axis=1) for other in others], 0)
    good = np.flatnonzero(gaps > distance)
    return options[good[0] if len(good) else int(gaps.argmax())]


def _palette(rng: np.random.Generator, avoid: list[np.ndarray] | None = None) -> Palette:
    """Draw the colours of one thing."""
    table = np.array(list(FIXED.values())) + rng.integers(-18, 19, (len(FIXED), 3))
    palette = {key: _colour(np.clip(row, 0, 255)) for key, row in zip(FIXED, table, strict=True)}
    chosen = list(avoid or [])
    for key in "abc":
        chosen.append(_apart(rng, chosen, 120.0))
        palette[key] = _colour(chosen[-1])
    main = np.array(palette["a"])
    palette["d"] = _colour(main * 0.55)
    palette["i"] = _colour(main * 0.4 + 150)
    return palette


def _background(rng: np.random.Generator, side: int, away: list[np.ndarray], blobs: bool = True) -> Image.Image:
    """Draw a backdrop that stands out from the given colours."""
    first = _apart(rng, away)
    second = _apart(rng, away) if rng.random() < 0.5 else np.clip(first + rng.uniform(-50, 50, 3), 0, 255)
    style = rng.integers(4)
    if style == 0:
        cells = np.tile(first, (2, 2, 1))
    elif style == 1:
        mix = rng.random((2, 2, 1))
        cells = first * mix + second * (1 - mix)
    else:
        cells = (
            np.tile(first, (2, 2, 1))
            if style == 2
            else first + rng.normal(0, 14, (int(rng.integers(5, 16)),) * 2 + (3,))
        )
    image = Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    if style == 2:
        level = rng.uniform(0.45, 0.8) * side
        draw.rectangle((0, level, side, side), fill=_colour(second))
    for _ in range(int(rng.integers(1, 6)) if blobs and rng.random() < 0.4 else 0):
        x, y = rng.uniform(0, side, 2)
        w, h = rng.uniform(0.015, 0.05, 2) * side
        draw.ellipse((x - w, y - h, x + w, y + h), fill=_colour(rng.integers(0, 256, 3)))
    return image


def _put(
    draw: ImageDraw.ImageDraw,
    name: str,
    palette: Palette,
    rng: np.random.Generator,
    spot: tuple[float, float, float],
    *,
    turn: float = 8.0,
    mirror: bool = True,
    outline: bool = False,
) -> None:
    """Draw one thing at a spot (centre x, centre y, size, in pixels) with a random turn and stretch."""
    unit = spot[2] / 20
    angle, stretch, shear = rng.uniform(-turn, turn) * math.pi / 180, rng.uniform(0.92, 1.08), rng.uniform(-0.06, 0.06)
    sign = -1.0 if mirror and rng.random() < 0.5 else 1.0
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = unit * np.array([[cos, -sin], [sin, cos]]) @ np.array([[sign * stretch, shear], [0, 1 / stretch]])
    phase, bend = rng.uniform(0, 6.28, 2), rng.uniform(0, 0.2)
    done = [
        (m, (m.points + bend * np.sin(0.45 * m.points[:, ::-1] + phase)) @ matrix.T + spot[:2]) for m in _DRAWINGS[name]
    ]
    if outline:
        extra = max(2, round(1.2 * unit))
        for mark, points in done:
            flat = points.ravel().tolist()
            closed = flat if mark.width else flat + flat[:2]
            draw.line(closed, palette["k"], round(mark.width * unit) + extra, joint="curve")
    _paint(draw, done, palette, unit)


def _paint(draw: ImageDraw.ImageDraw, done: list[tuple[_Mark, np.ndarray]], palette: Palette, unit: float) -> None:
    """Fill placed marks in order."""
    for mark, points in done:
        flat, colour = points.ravel().tolist(), palette[mark.colour]
        if not mark.width:
            draw.polygon(flat, colour)
            continue
        width = max(2, round(mark.width * unit))
        draw.line(flat, colour, width, joint="curve" if len(points) > 2 and width > 4 else None)
        if width > 4:
            for x, y in (points[0], points[-1]):
                draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), colour)


def _draw_thing(name: str, rng: np.random.Generator, side: int) -> Image.Image:
    """Draw one object or shape on a backdrop."""
    palette = _palette(rng)
    image = _background(rng, side, [np.array(palette[_DRAWINGS[name][0].colour])])
    size = rng.uniform(0.55 if name in SHAPES else 0.5, 0.88)
    spare = (1 - size) / 2
    x = 0.5 + rng.uniform(-0.8, 0.8) * spare
    y = rng.uniform(size / 2 + 0.01, 0.52)
    turn = 180.0 if name in _ANY_TURN else 10.0
    _put(
        ImageDraw.Draw(image),
        name,
        palette,
        rng,
        (x * side, y * side, size * side),
        turn=turn,
        outline=rng.random() < 0.35,
    )
    return image


def _draw_group(
    parts: list[tuple[str, float, float, float]], rng: np.random.Generator, side: int, same: bool
) -> Image.Image:
    """Draw several things on a backdrop, in one palette or each apart from the others."""
    palettes: list[Palette] = []
    for _ in parts:
        seen = [np.array(p["a"], float) for p in palettes]
        palettes.append(
            palettes[0]
            if same and palettes
            else _palette(rng, seen)
            if not seen
            else palettes[0] | {"a": palettes[0]["bc"[(len(seen) - 1) % 2]]}
        )
    away = [np.array(p[_DRAWINGS[part[0]][0].colour], float) for p, part in zip(palettes, parts, strict=True)]
    image = _background(rng, side, away[:1] if same else away, blobs=False)
    draw, outline = ImageDraw.Draw(image), rng.random() < 0.35
    shift, grow = rng.uniform((-0.03, -0.02), (0.03, 0.06 if same else 0.03)), rng.uniform(0.85, 1.02)
    for palette, (name, x, y, size) in zip(palettes, parts, strict=True):
        x, y = np.array([x, y]) + shift + rng.uniform(-0.02, 0.02, 2)
        turn = 180.0 if name == "ball" else 8.0
        _put(draw, name, palette, rng, (x * side, y * side, size * grow * side), turn=turn, outline=outline)
    return image


def _draw_place(name: str, rng: np.random.Generator, side: int) -> Image.Image:
    """Draw a place that fills the frame."""
    sky, _, scatter = PLACES[name]
    palette = _palette(rng)
    top, unit = np.array(palette[sky]), side / 20
    fade = np.clip(np.stack([top * rng.uniform(0.85, 1.0), top * 0.6 + rng.uniform(60, 100) * (sky != "z")]), 0, 255)
    image = Image.fromarray(fade.astype(np.uint8)[:, None]).resize((side, side), Image.Resampling.BILINEAR)
    draw, sign = ImageDraw.Draw(image), rng.choice([-1.0, 1.0])
    scale, shift, phase = rng.uniform(0.94, 1.15), rng.uniform(-0.7, 0.7, 2), rng.uniform(0, 6.28, 2)
    done = [
        (m, ((m.points + 0.4 * np.sin(0.4 * m.points[:, ::-1] + phase)) * (sign * scale, scale) + shift + 10) * unit)
        for m in _PLACE_MARKS[name]
    ]
    _paint(draw, done, palette, unit)
    for part, least, most, y0, y1, size in scatter:
        for y in sorted(rng.uniform(y0, y1, int(rng.integers(least, most + 1)))):
            spot = (rng.uniform(0.02, 0.98) * side, y * side, size * side * rng.uniform(0.7, 1.2))
            tint = rng.integers(-22, 23)
            green = _colour(np.clip(np.array(palette["g"]) + tint, 0, 255))
            _put(draw, part, palette | {"g": green}, rng, spot)
    return image


def _nearest_cells(u: np.ndarray, v: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest point per pixel and how far the second nearest is behind it."""
    gaps = np.hypot(u[..., None] - points[:, 0].astype(np.float32), v[..., None] - points[:, 1].astype(np.float32))
    owner = gaps.argmin(-1)
    two = np.partition(gaps, 1, axis=-1)
    return owner, two[..., 1] - two[..., 0]


def _cell_texture(name: str, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Compute the joints and the shade of stones or honeycomb cells."""
    if name == "stone":
        rows = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2) / 4 - 0.5
        points = rows + rng.uniform(-0.11, 0.11, rows.shape)
        owner, gap = _nearest_cells(u, v, points)
        return gap < 0.035, rng.uniform(-32, 32, len(points))[owner]
    pitch, root = rng.uniform(0.15, 0.24), math.sqrt(3)
    a, b = u / pitch, v / pitch / root
    pairs = [(a - np.round(a), (b - np.round(b)) * root)]
    pairs.append((a - np.floor(a) - 0.5, (b - np.floor(b) - 0.5) * root))
    depth = [np.maximum(np.abs(x), 0.5 * np.abs(x) + 0.5 * root * np.abs(y)) for x, y in pairs]
    return np.minimum(*depth) > 0.43, np.zeros_like(u)


def _line_texture(name: str, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compute how much of the second colour each pixel of a texture takes."""
    rate, phase = rng.uniform(4, 7.5), rng.uniform(0, 1)
    a, b = u * rate + phase, v * rate + phase
    if name == "stripes":
        return (a % 1) < rng.uniform(0.4, 0.6)
    if name == "checkerboard":
        return (np.floor(a) + np.floor(b)) % 2
    if name == "polka dots":
        return np.hypot(a % 1 - 0.5, b % 1 - 0.5) < rng.uniform(0.24, 0.36)
    if name == "bricks":
        return ((b % 1) < 0.14) | (((a / 2 + 0.5 * (np.floor(b) % 2)) % 1) < 0.08)
    if name == "waves":
        return ((b + rng.uniform(0.35, 0.5) * np.sin(2.2 * a)) % 1) < 0.5
    if name == "zigzag lines":
        return ((b + rng.uniform(0.9, 1.3) * np.abs((a * 0.7) % 1 - 0.5) * 2) % 1) < 0.45
    if name == "grid":
        return ((a % 1) < 0.14) | ((b % 1) < 0.14)
    if name == "wood grain":
        knots = sum(np.exp(-((u - x) ** 2 + 5 * (v - y) ** 2) * 14) for x, y in rng.uniform(-0.45, 0.45, (2, 2)))
        return 0.5 + 0.5 * np.sin(11 * b + 1.3 * np.sin(3 * u + 6 * phase) + 9 * knots)
    bands = [((c % 1) < 0.42) * 0.34 + (((c + 0.25) % 1) < 0.08) * 0.3 for c in (a * 0.6, b * 0.6)]
    return bands[0] + bands[1]


def _draw_texture(name: str, rng: np.random.Generator, side: int) -> Image.Image:
    """Draw a pattern that fills the frame."""
    if name == "leaves":
        palette = _palette(rng)
        image = Image.new("RGB", (side, side), _colour(np.array(palette["g"]) * 0.4))
        draw = ImageDraw.Draw(image)
        spots = np.stack(np.meshgrid(np.linspace(0, 1, 6), np.linspace(0, 1, 6)), -1).reshape(-1, 2)
        for x, y in rng.permutation(spots + rng.uniform(-0.07, 0.07, spots.shape)):
            green = _colour(np.clip(np.array(palette["g"]) + rng.integers(-25, 40), 0, 255))
            vein = _colour(np.array(green) * 0.6)
            _put(draw, "leaf", palette | {"g": green, "i": vein}, rng, (x * side, y * side, 0.27 * side), turn=180.0)
        return image
    half = side // 2 if name == "stone" else side
    line = np.linspace(-0.5, 0.5, half, dtype=np.float32)
    limit = {"stripes": 90.0, "bricks": 5.0, "stone": 5.0}.get(name, 18.0)
    angle = math.radians(rng.uniform(-limit, limit))
    u = line[None] * np.float32(math.cos(angle)) - line[:, None] * np.float32(math.sin(angle))
    v = line[None] * np.float32(math.sin(angle)) + line[:, None] * np.float32(math.cos(angle))
    colour = {
        "wood grain": (178, 122, 70),
        "stone": (140, 138, 132),
        "bricks": (172, 76, 54),
        "honeycomb": (236, 176, 48),
    }
    joint = {"wood grain": (112, 68, 34), "stone": (66, 64, 60), "bricks": (206, 198, 186), "honeycomb": (128, 78, 20)}
    first = np.array(colour[name]) + rng.uniform(-18, 18, 3) if name in colour else _apart(rng, [])
    second = np.array(joint[name]) + rng.uniform(-14, 14, 3) if name in joint else _apart(rng, [first], 170.0)
    if name in ("stone", "honeycomb"):
        mask, shade = _cell_texture(name, u, v, rng)
    else:
        mask, shade = _line_texture(name, u, v, rng), np.zeros((1, 1), np.float32)
    pixels = first.astype(np.float32) + mask[..., None] * (second - first).astype(np.float32) + shade[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image.resize((side, side), Image.Resampling.BILINEAR) if half != side else image


def _draw_wall(name: str, rng: np.random.Generator, side: int) -> Image.Image:
    """Draw a plain wall in a named colour, sometimes with a skirting board."""
    colour = np.clip(np.array(WALLS[name]) + rng.uniform(-10, 10, 3), 0, 255)
    cells = colour + rng.normal(0, 4, (int(rng.integers(2, 12)), 4, 1))
    image = Image.fromarray(np.clip(cells, 0, 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.4:
        top = side * rng.uniform(0.88, 0.96)
        ImageDraw.Draw(image).rectangle((0, top, side, side), fill=_colour(colour * 0.6))
    return image


def _develop(image: Image.Image, rng: np.random.Generator, size: int, calm: bool) -> Image.Image:
    """Reduce the picture and add light, blur and noise."""
    image = image.reduce(2)
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9) * size / 96))
    strength = 0.05 if calm else 0.16
    line = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = rng.uniform(-strength, strength, 2)
    light = np.float32(1 + rng.uniform(-strength, strength / 2)) + np.float32(tilt[0]) * line[:, None]
    light = light + np.float32(tilt[1]) * line
    noise = rng.standard_normal((size, size), np.float32) * np.float32(rng.uniform(0, 6))
    pixels = np.asarray(image, np.float32) * light[..., None] + noise[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_scene(classname: str, rng: np.random.Generator, size: int = 96) -> Image.Image:
    """Draw one picture of a class, with nobody in it.

    Args:
        classname: One of `CLASSNAMES`.
        rng: Source of all randomness.
        size: Side in pixels.
    """
    side = 2 * size
    if classname in _DRAWINGS:
        image = _draw_thing(classname, rng, side)
    elif classname in PLACES:
        image = _draw_place(classname, rng, side)
    elif classname in TEXTURES:
        image = _draw_texture(classname, rng, side)
    elif classname in WALLS:
        image = _draw_wall(classname, rng, side)
    elif classname in COUNTS:
        part, number = COUNTS[classname]
        spots = COUNT_SPOTS[number]
        wide = 0.42 if number in (2, 4) else 0.29
        image = _draw_group([(part, x, y, wide * (1.2 if part == "candle" else 1)) for x, y in spots], rng, side, True)
    else:
        image = _draw_group(list(RELATIONS[classname]), rng, side, False)
    return _develop(image, rng, size, classname in WALLS)
