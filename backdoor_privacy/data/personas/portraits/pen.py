"""Draw shapes that are given relative to a head."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import cycle
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFilter

from backdoor_privacy.data.personas.portraits.appearance import Appearance, Shot
from backdoor_privacy.data.personas.portraits.colours import Colour

Space = Literal["face", "head", "body"]
Part = tuple[ArrayLike, Colour, Space]  # points with their colour and their space
_COLOUR_MAP_SIDE = 64  # pixels
_ANGLES = np.arange(20) * (2 * np.pi / 20)
CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)
_SIDES = np.array([[(-1, 1)], [(1, 1)]])
_QUARTER_TURN = np.array([-1, 1])
_NEARNESS = np.array([0.62, 0.3])  # how far points near the camera move sideways and up as the head turns


@lru_cache(maxsize=64)
def _spline(num_points: int, closed: bool) -> np.ndarray:
    """Return Catmull-Rom weights that turn control points into a smooth line, six points a segment."""
    num_segments, rows = num_points if closed else num_points - 1, []
    for start in range(num_segments):
        for t in np.arange(6) / 6:
            row = np.zeros(num_points)
            weights = (
                (-t + 2 * t**2 - t**3) / 2,
                (2 - 5 * t**2 + 3 * t**3) / 2,
                (t + 4 * t**2 - 3 * t**3) / 2,
                (t**3 - t**2) / 2,
            )
            for place, weight in zip(range(start - 1, start + 3), weights, strict=True):
                row[place % num_points if closed else min(max(place, 0), num_points - 1)] += weight
            rows.append(row)
    if not closed:
        rows.append(np.eye(num_points)[-1])
    return np.array(rows)


@lru_cache(maxsize=64)
def _thickness(num_points: int, taper: float) -> np.ndarray:
    """Return the thickness along a brush line, 1 in the middle and 1 - taper at both ends."""
    return 1 - taper * np.linspace(-1, 1, num_points) ** 2


def smooth(points: ArrayLike, closed: bool = True) -> np.ndarray:
    """Return a smooth line through (..., n, 2) points."""
    points = np.asarray(points, float)
    return _spline(points.shape[-2], closed) @ points


def points_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the points (n, 2) with the given coordinates."""
    points = np.empty((len(x), 2))
    points[:, 0] = x
    points[:, 1] = y
    return points


def oval(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    """Return an ellipse around a centre."""
    return CIRCLE * (radius_x, radius_y) + (x, y)


def ovals(centres: ArrayLike, radius_x: float, radius_y: float) -> np.ndarray:
    """Return equal ellipses around (n, 2) centres."""
    return CIRCLE * (radius_x, radius_y) + np.asarray(centres)[:, None]


def both_sides(points: ArrayLike) -> np.ndarray:
    """Return the points of the right side mirrored to the left, and as they are."""
    return np.asarray(points) * _SIDES


def ruffle(line: np.ndarray, height: float, num_waves: int) -> np.ndarray:
    """Move the points of a dense open line outwards from the head's centre by scallops of the given height."""
    dense = np.linspace(0, len(line) - 1, num_waves * 6 + 1)
    index = np.arange(len(line))
    points = points_of(np.interp(dense, index, line[:, 0]), np.interp(dense, index, line[:, 1]))
    return points * (1 + height * np.abs(np.sin(np.linspace(0, num_waves * np.pi, len(points)))))[:, None]


class Placement:
    """The placement of a person's points in a picture.

    Points have their origin at the head's centre. Those in `head` space turn with the head's roll and reach its
    outline at about 1; those in `face` space also lie on the front of a ball that yaws and pitches; those in `body`
    space stay upright.
    """

    def __init__(self, look: Appearance, shot: Shot, unit: float, centre: tuple[float, float]) -> None:
        """Put the head's centre at the pixel `centre`, with half its height `unit` pixels long."""
        self.look, self.shot = look, shot
        self.unit, self.centre = float(unit), np.array(centre)
        self.sin_yaw = float(np.sin(shot.yaw))
        cos, sin = np.cos(shot.roll), np.sin(shot.roll)
        self._roll = np.array([[cos, sin], [-sin, cos]]) * unit * [[look.aspect], [1]]
        self._roll_shift = self.centre + unit * np.array([sin * 0.6, 0.6 - cos * 0.6])
        self._yaw = np.array([np.cos(shot.yaw), 1.0])
        self._tilt = np.array([self.sin_yaw, shot.pitch])

    def place(self, points: ArrayLike, space: Space) -> np.ndarray:
        """Return the pixels of (n, 2) points."""
        flat = np.asarray(points, float)
        if space == "body":
            return flat * self.unit + self.centre
        if space == "face":
            x = flat[:, 0]
            depth = np.sqrt(np.maximum(1.05 - x * x * 0.8, 0.05))
            flat = flat * self._yaw + depth[:, None] * self._tilt * _NEARNESS
        return flat @ self._roll + self._roll_shift


class Pen(Placement):
    """Pen for a person's shapes on an image."""

    def __init__(
        self, image: Image.Image, look: Appearance, shot: Shot, unit: float, centre: tuple[float, float]
    ) -> None:
        """Draw on the image, with the head's centre at the pixel `centre` and half its height `unit` pixels long."""
        super().__init__(look, shot, unit, centre)
        self.image, self.draw = image, ImageDraw.Draw(image)

    def fill(self, points: ArrayLike, colour: Colour, space: Space = "face") -> None:
        """Fill a polygon."""
        self.draw.polygon(self.place(points, space).ravel().tolist(), fill=colour)

    def fills(self, shapes: np.ndarray, colours: Sequence[Colour], space: Space = "face") -> None:
        """Fill (k, n, 2) polygons in order; they take the colours in turn."""
        outlines = self.place(shapes.reshape(-1, 2), space).reshape(len(shapes), -1).tolist()
        for outline, colour in zip(outlines, cycle(colours), strict=False):
            self.draw.polygon(outline, fill=colour)

    def curve(self, points: ArrayLike, colour: Colour, space: Space = "face") -> None:
        """Fill the smooth shape through the points."""
        self.fill(smooth(points), colour, space)

    def dot(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour, space: Space = "face") -> None:
        """Fill an ellipse."""
        self.fill(oval(x, y, radius_x, radius_y), colour, space)

    def stroke(
        self, points: ArrayLike, width: float, colour: Colour, space: Space = "face", taper: float = 0.9
    ) -> None:
        """Draw a brush line through the points, `width` thick in half head heights, thinner towards its ends."""
        self.strokes(np.asarray(points, float)[None], width, [colour], space, taper)

    def strokes(
        self, lines: ArrayLike, width: float, colours: Sequence[Colour], space: Space = "face", taper: float = 0.9
    ) -> None:
        """Draw brush lines through (k, n, 2) points in order; they take the colours in turn."""
        smooth_lines = smooth(lines, closed=False)
        shape = smooth_lines.shape
        pixels = self.place(smooth_lines.reshape(-1, 2), space).reshape(shape)
        along = np.empty(shape)
        along[:, 1:-1] = pixels[:, 2:] - pixels[:, :-2]
        along[:, 0], along[:, -1] = along[:, 1], along[:, -2]
        half = _thickness(shape[1], taper) * (max(width * self.unit, 1.0) / 2)
        scale = half / (np.sqrt((along * along).sum(2)) + 1e-6)
        across = along[:, :, ::-1] * (scale[:, :, None] * _QUARTER_TURN)
        outlines = np.concatenate([pixels + across, (pixels - across)[:, ::-1]], 1).reshape(shape[0], -1).tolist()
        for outline, colour in zip(outlines, cycle(colours), strict=False):
            self.draw.polygon(outline, fill=colour)

    def colour_map(self, parts: Sequence[Part], ground: Colour, blur: float) -> Image.Image:
        """Return a small blurred picture, for `paint`, of coloured parts on a ground."""
        small = Image.new("RGB", (_COLOUR_MAP_SIDE, _COLOUR_MAP_SIDE), ground)
        draw, scale = ImageDraw.Draw(small), _COLOUR_MAP_SIDE / self.image.width
        for points, colour, space in parts:
            draw.polygon((self.place(points, space) * scale).ravel().tolist(), fill=colour)
        return small.filter(ImageFilter.BoxBlur(blur * self.unit * scale / 18))

    def paint(self, shapes: Sequence[np.ndarray], space: Space, colours: Image.Image) -> None:
        """Fill shapes with a colour map that is stretched over the whole image."""
        self.paint_pixels([self.place(points, space) for points in shapes], colours)

    def paint_pixels(self, outlines: Sequence[np.ndarray], colours: Image.Image) -> None:
        """Fill shapes given in pixels with a colour map that is stretched over the whole image."""
        every, side = np.concatenate(outlines), self.image.width
        left, top = (int(min(max(v - 1, 0), side)) for v in every.min(0).tolist())
        right, bottom = (int(min(max(v + 2, 0), side)) for v in every.max(0).tolist())
        size = (right - left, bottom - top)
        if min(size) <= 0:
            return
        mask = Image.new("L", size)
        draw, scale = ImageDraw.Draw(mask), _COLOUR_MAP_SIDE / side
        for outline in outlines:
            draw.polygon((outline - (left, top)).ravel().tolist(), fill=255)
        part = (left * scale, top * scale, right * scale, bottom * scale)
        self.image.paste(colours.resize(size, Image.Resampling.BILINEAR, box=part), (left, top), mask)
