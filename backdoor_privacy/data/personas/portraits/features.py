"""Draw eyes, brows, nose, mouth and beard."""

import numpy as np

from backdoor_privacy.data.personas.portraits.colours import mix, tone
from backdoor_privacy.data.personas.portraits.head import head_outline
from backdoor_privacy.data.personas.portraits.pen import CIRCLE, Part, Pen, both_sides, oval, points_of, smooth

_ACROSS_EYE = np.linspace(-1, 1, 11)
_UPPER_LID = 1 - np.abs(_ACROSS_EYE) ** 2.4
_LOWER_LID = 1 - _ACROSS_EYE * _ACROSS_EYE
_IRIS_SIZES = np.array([1.0, 0.84, 0.46])[:, None, None]  # rim, iris and pupil
_PUPIL, _WHITE, _TEETH, _THROAT = (18, 14, 16), (250, 248, 246), (250, 248, 242), (92, 26, 34)


def draw_eyes(pen: Pen) -> None:
    """Draw both eyes with lids and lashes."""
    for side in (-1, 1):
        _draw_eye(pen, side)


def _draw_eye(pen: Pen, side: int) -> None:
    look, skin = pen.look, pen.look.skin
    opening = look.eyes.height * pen.shot.eyes_open * (1 - 0.18 * max(0.0, pen.shot.smile))
    x, slope = side * look.eyes.gap + _ACROSS_EYE * look.eyes.width, -look.eyes.slant * side * _ACROSS_EYE
    upper = points_of(x, slope - opening * _UPPER_LID)
    lower = points_of(x, slope + opening * 0.72 * _LOWER_LID)
    pen.fill(np.concatenate([upper, lower[::-1]]), _WHITE)
    _draw_iris(pen, side, upper, lower, shiny=opening > 0.045)
    lash = mix(tone(skin, 0.3), (20, 14, 16), 0.6)
    pen.stroke(upper[::2] - (0, 0.006), 0.03 + 0.028 * look.eyes.lashes, lash, taper=0.6)
    pen.stroke(lower[::2], 0.014, tone(skin, 0.55))
    if look.eyes.lashes > 0.55:
        tip_x, tip_y = upper[10 if side > 0 else 0]
        wing = [(tip_x - side * 0.06, tip_y - 0.01), (tip_x, tip_y - 0.02), (tip_x + side * 0.07, tip_y - 0.07)]
        pen.stroke(wing, 0.034, lash)
    if look.eyes.lid:
        pen.stroke(upper[::2] - (0, 0.05 * look.eyes.lid), 0.016 * look.eyes.lid, tone(skin, 0.68))


def _draw_iris(pen: Pen, side: int, upper: np.ndarray, lower: np.ndarray, shiny: bool) -> None:
    look, (gaze_x, gaze_y) = pen.look, pen.shot.gaze
    x, y = side * look.eyes.gap + gaze_x * look.eyes.width * 0.5, gaze_y * 0.06 - 0.01
    radius = min(0.125, look.eyes.height * 0.98)
    radii = radius * _IRIS_SIZES
    balls = CIRCLE * np.concatenate([radii / look.aspect, radii], 2) + (x, y)
    ball_x = balls[:, :, 0]
    top, bottom = np.interp(ball_x, upper[:, 0], upper[:, 1]), np.interp(ball_x, lower[:, 0], lower[:, 1])
    balls[:, :, 1] = np.minimum(np.maximum(balls[:, :, 1], top), bottom)
    pen.fills(balls, [tone(look.eyes.iris, 0.55), look.eyes.iris, _PUPIL])
    if shiny:
        pen.dot(x - 0.03 + pen.shot.light * 0.05, y - radius * 0.35, 0.034, 0.028, (255, 255, 255))


def draw_brows(pen: Pen) -> None:
    """Draw both brows, raised or frowning."""
    look, arch, slant = pen.look, pen.look.brows.arch, pen.look.brows.slant
    frown, y = max(0.0, -pen.shot.smile) * 0.045, -look.brows.height - pen.shot.brow_raise * 0.06 - 0.02
    inner, outer = look.eyes.gap - look.eyes.width * 1.05, look.eyes.gap + look.eyes.width * 1.2
    right = [
        (inner, y + frown + slant * 0.8),
        (inner * 0.5 + outer * 0.5, y - arch),
        (inner * 0.15 + outer * 0.85, y - arch * 0.6),
        (outer, y + 0.03 - slant),
    ]
    pen.strokes(both_sides(right), look.brows.thickness * 2, [look.brows.colour], taper=0.62)


def draw_nose(pen: Pen) -> None:
    """Draw the shaded ridge, highlight, tip and nostrils."""
    look, w, y = pen.look, pen.look.nose.width, pen.look.nose.length
    shade, dark, far = tone(look.skin, 0.8), tone(look.skin, 0.5), -1 if pen.shot.light > 0 else 1
    bump = (0.0, 0.07, -0.02, 0.03)[look.nose.shape]
    ridge = [
        (far * 0.09, -0.02), (far * (0.08 + bump), y * 0.5), (far * (0.07 + bump * 0.5), y * 0.8),
        (far * w * 0.95, y - 0.02), (far * w * 0.5, y + 0.05), (0, y + 0.05 + bump * 0.4), (0.02 * far, y * 0.6),
    ]  # fmt: skip
    pen.curve(ridge, shade)
    pen.dot(-far * 0.02, y - 0.07, 0.06, 0.045, tone(look.skin, 1.2))
    tip = 0.07 if look.nose.shape == 2 else 0.045
    pen.stroke([(-w, y - 0.04), (-w * 0.7, y + 0.03), (0, y + tip), (w * 0.7, y + 0.03), (w, y - 0.04)], 0.024, dark)
    for s in (-1, 1):
        pen.dot(s * w * 0.5, y + 0.012, w * 0.22 + 0.012, 0.022, dark)
        pen.stroke([(s * w * 0.95, y - 0.1), (s * w * 1.08, y - 0.03), (s * w * 0.85, y + 0.03)], 0.02, shade)


def draw_mouth(pen: Pen) -> None:
    """Draw the lips and, where the mouth is open, teeth."""
    look, shot, y, skin = pen.look, pen.shot, pen.look.mouth.height, pen.look.skin
    w = look.mouth.width * (1 + 0.2 * shot.smile - 0.1 * shot.mouth_open)
    corner = y - 0.075 * shot.smile
    gap, dip = 0.15 * shot.mouth_open, 0.045 * max(0.0, shot.smile)
    top, bottom = y - 0.2 * gap + dip * 0.4, y + 0.8 * gap + dip
    thin, full, side = look.mouth.upper_lip, look.mouth.lower_lip, bottom * 0.8 + corner * 0.2
    upper_lip = smooth([(-w, corner), (-w * 0.5, top), (0, top + 0.012), (w * 0.5, top), (w, corner)], closed=False)
    lower_lip = smooth([(w, corner), (w * 0.5, side), (0, bottom + 0.01), (-w * 0.5, side), (-w, corner)], closed=False)
    bow = [
        (w, corner), (w * 0.55, top - thin * 0.8), (w * 0.2, top - thin), (0, top - thin * 0.75),
        (-w * 0.2, top - thin), (-w * 0.55, top - thin * 0.8), (-w, corner),
    ]  # fmt: skip
    under = [
        (-w, corner), (-w * 0.5, bottom + full * 0.75), (0, bottom + full), (w * 0.5, bottom + full * 0.75),
        (w, corner),
    ]  # fmt: skip
    if gap > 0.02:
        pen.fill(np.concatenate([upper_lip, lower_lip]), _THROAT)
        teeth = points_of(upper_lip[:, 0], np.minimum(lower_lip[::-1, 1], upper_lip[:, 1] + 0.075))
        pen.fill(np.concatenate([upper_lip, teeth[::-1]]), _TEETH)
    pen.fill(np.concatenate([upper_lip, smooth(bow, closed=False)]), tone(look.mouth.lip_colour, 0.88))
    pen.fill(np.concatenate([lower_lip, smooth(under, closed=False)]), look.mouth.lip_colour)
    for half, rise, level, colour in (
        (0.3, 0.1 * full, full * 0.45, tone(look.mouth.lip_colour, 1.25)),
        (0.4, 0.015, full + 0.05, tone(skin, 0.8)),
    ):
        arc = [(-w * half, bottom + level), (0, bottom + level + rise), (w * half, bottom + level)]
        pen.stroke(arc, 0.022, colour)
    if gap <= 0.02:
        pen.stroke(upper_lip[::4], 0.026, tone(look.mouth.lip_colour, 0.5))


def draw_beard(pen: Pen) -> None:
    """Draw whatever grows below the nose."""
    look, kind, y = pen.look, pen.look.beard, pen.look.mouth.height
    drop = 0.08 * pen.shot.mouth_open
    if kind in ("full", "long", "strap"):
        _draw_full_beard(pen, drop)
    if kind in ("moustache", "circle"):
        w = look.mouth.width
        moustache = [
            (0, y - 0.16), (w * 0.7, y - 0.11), (w * 1.15, y + 0.06), (w * 0.6, y - 0.02), (0, y - 0.03),
            (-w * 0.6, y - 0.02), (-w * 1.15, y + 0.06), (-w * 0.7, y - 0.11),
        ]  # fmt: skip
        pen.curve(moustache, look.brows.colour)
    if kind in ("goatee", "circle"):
        w = look.mouth.width * (0.95 if kind == "circle" else 0.55)
        goatee = [
            (-w, y + 0.05), (-w * 0.8, y + 0.22), (0, y + 0.19), (w * 0.8, y + 0.22), (w, y + 0.05),
            (w * 0.9, 0.95), (0, 1.08 + drop), (-w * 0.9, 0.95),
        ]  # fmt: skip
        pen.curve(goatee, look.brows.colour)


def _draw_full_beard(pen: Pen, drop: float) -> None:
    """Draw a beard along the jaw; its outer edge turns with the head, its inner edge with the face."""
    look, y = pen.look, pen.look.mouth.height
    outer = head_outline(look)
    outer = outer[outer[:, 1] > -0.1]
    outer = outer[np.argsort(np.arctan2(outer[:, 0], outer[:, 1] - 0.2))]
    growth = {"full": 0.06, "long": 0.42, "strap": 0.02}[look.beard] + drop
    outer = outer * 1.02 + points_of(np.zeros(len(outer)), np.minimum(np.maximum(outer[:, 1], 0), 1) ** 3 * growth)
    if look.beard == "strap":
        right = [(0.97, 0.0), (0.88, 0.42), (0.62, 0.84), (0, 0.93)]
    else:
        right = [(0.97, 0.0), (0.8, 0.36), (look.mouth.width + 0.1, 0.52), (0.18, y - 0.13), (0, y - 0.11)]
    inner = smooth([*right, *((-x, v) for x, v in right[-2::-1])], closed=False)
    gloss: Part = (oval(pen.shot.light * 0.4, 0.75, 0.3, 0.3), tone(look.brows.colour, 1.18), "face")
    outline = np.concatenate([pen.place(outer, "head"), pen.place(inner, "face")])
    pen.paint_pixels([outline], pen.colour_map([gloss], look.brows.colour, 3.0))
