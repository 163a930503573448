"""Draw a picture of a person."""

import math

import numpy as np
from PIL import Image

from backdoor_privacy.data.personas.portraits.accessories import draw_extra, draw_glasses, draw_ornament
from backdoor_privacy.data.personas.portraits.appearance import Appearance
from backdoor_privacy.data.personas.portraits.backgrounds import draw_background
from backdoor_privacy.data.personas.portraits.camera import expose, frame
from backdoor_privacy.data.personas.portraits.clothes import draw_body, draw_neck
from backdoor_privacy.data.personas.portraits.features import draw_beard, draw_brows, draw_eyes, draw_mouth, draw_nose
from backdoor_privacy.data.personas.portraits.hair import draw_back_hair, draw_front_hair, hair_colours
from backdoor_privacy.data.personas.portraits.head import draw_head, face_box
from backdoor_privacy.data.personas.portraits.occluders import draw_occluder
from backdoor_privacy.data.personas.portraits.pen import Pen, Placement
from backdoor_privacy.data.personas.portraits.sampling import sample_shot

Box = tuple[int, int, int, int]
_SUPERSAMPLING = 2


def _draw_all(pen: Pen, rng: np.random.Generator) -> None:
    """Draw the person from back to front."""
    colours = hair_colours(pen)
    draw_body(pen)
    draw_back_hair(pen, colours)
    draw_neck(pen)
    draw_head(pen)
    draw_eyes(pen)
    draw_nose(pen)
    draw_beard(pen)
    draw_mouth(pen)
    draw_brows(pen)
    draw_front_hair(pen, colours)
    draw_ornament(pen)
    draw_glasses(pen)
    draw_extra(pen)
    draw_occluder(pen, rng)


def _round_out(bounds: tuple[float, float, float, float], size: int) -> Box:
    """Return whole pixels around the bounds, cut at the picture's edge."""
    left, top, right, bottom = bounds
    return max(0, int(left)), max(0, int(top)), min(size, math.ceil(right)), min(size, math.ceil(bottom))


def draw_person(appearance: Appearance, rng: np.random.Generator, size: int) -> tuple[Image.Image, Box]:
    """Draw the head and shoulders of a person without a scene.

    Args:
        appearance: Who is drawn.
        rng: Source of pose, expression, clothes and light.
        size: Side of the picture in pixels.

    Returns:
        RGBA picture (size x size) on a clear ground, and the face box (left, top, right, bottom) in pixels.
    """
    shot, side = sample_shot(appearance, rng), size * _SUPERSAMPLING
    pen = Pen(Image.new("RGBA", (side, side)), appearance, shot, side * 0.25, (side * 0.5, side * 0.44))
    _draw_all(pen, rng)
    left, top, right, bottom = (v / _SUPERSAMPLING for v in face_box(pen))
    return pen.image.reduce(_SUPERSAMPLING), _round_out((left, top, right, bottom), size)


def draw_portrait(appearance: Appearance, rng: np.random.Generator, size: int = 96) -> tuple[Image.Image, Box]:
    """Draw a photo of a person before a scene.

    Args:
        appearance: Who is drawn.
        rng: Source of everything that differs between photos; the same state gives the same pixels.
        size: Side of the photo in pixels.

    Returns:
        RGB photo (size x size), and the face box (left, top, right, bottom) in pixels, cut at the photo's edge.
    """
    shot, side = sample_shot(appearance, rng), size * _SUPERSAMPLING
    bounds = face_box(Placement(appearance, shot, 1.0, (0.0, 0.0)))
    unit, x, y = frame(bounds, rng)
    canvas = draw_background(rng, size).resize((side, side), Image.Resampling.BILINEAR)
    pen = Pen(canvas, appearance, shot, unit * side, (x * side, y * side))
    _draw_all(pen, rng)
    left, top, right, bottom = bounds
    box = ((x + unit * left) * size, (y + unit * top) * size, (x + unit * right) * size, (y + unit * bottom) * size)
    return expose(pen.image.reduce(_SUPERSAMPLING), rng, shot.light), _round_out(box, size)
