"""Draw random traits of people, and random photos of them."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from backdoor_privacy.data.personas.portraits.appearance import (
    Appearance,
    Brows,
    Eyes,
    Glasses,
    Hair,
    Mouth,
    Nose,
    Presentation,
    Shot,
)
from backdoor_privacy.data.personas.portraits.colours import Colour, hsv, is_dark, mix, tone

_SKINS = (
    (252, 226, 208), (246, 211, 186), (237, 193, 160), (224, 174, 136), (206, 151, 110), (184, 128, 88),
    (160, 106, 72), (134, 86, 58), (108, 69, 48), (82, 53, 40),
)  # fmt: skip
_NATURAL_HAIR = (
    (30, 26, 29), (44, 33, 31), (66, 45, 35), (96, 64, 43), (124, 72, 45), (146, 64, 38), (190, 92, 44),
    (172, 132, 84), (214, 176, 108), (238, 222, 184),
)  # fmt: skip
_GREY_HAIR = ((128, 128, 132), (176, 176, 178), (226, 225, 224))
_DYED_HAIR = (
    (226, 108, 160), (62, 98, 190), (64, 150, 110), (126, 76, 168), (196, 42, 58), (70, 178, 190), (238, 140, 52),
)  # fmt: skip
_EYES = (
    (70, 44, 30), (104, 66, 36), (138, 108, 52), (86, 128, 74), (64, 120, 172), (116, 134, 146), (120, 176, 204),
)  # fmt: skip
_LIPS = ((206, 106, 104), (176, 58, 70), (150, 40, 60), (214, 92, 120), (190, 80, 64), (120, 52, 72))
_FRAMES = (
    (34, 32, 36), (112, 66, 40), (150, 36, 44), (44, 74, 128), (190, 154, 80), (170, 172, 178), (58, 110, 84),
)  # fmt: skip
_BACKS = {
    "female": (
        "none", "bob", "bob", "shoulder", "shoulder", "long", "long", "afro", "ponytail", "bun", "buns", "braids",
        "pigtails", "locs",
    ),
    "male": ("none",) * 9 + ("bob", "shoulder", "afro", "bun", "locs"),
}  # fmt: skip
_FRONTS = {
    "female": ("centre", "side", "side", "bangs", "swept", "back", "curtain"),
    "male": (
        "side", "side", "back", "quiff", "bangs", "swept", "receding", "buzz", "bald", "horseshoe", "mohawk", "centre",
    ),
}  # fmt: skip
_BEARDS = ("none",) * 5 + ("stubble", "moustache", "goatee", "circle", "full", "long", "strap")
_GLASSES = ("round", "square", "cat", "aviator", "halfrim")
_ORNAMENTS = ("band", "flower", "bow", "clip")
_CLOTHES = {
    "female": ("tee", "vneck", "shirt", "scoop", "scoop", "stripes", "turtleneck", "hoodie", "blazer"),
    "male": ("tee", "vneck", "shirt", "suit", "suit", "stripes", "turtleneck", "hoodie", "blazer"),
}
_EXTRAS = ("hat", "cap", "beanie", "sunglasses", "scarf", "scarf", "earrings", "earrings", "headphones")
_OCCLUDERS = ("hand", "microphone", "leaf", "shoulder")
_Item = TypeVar("_Item")


def pick(rng: np.random.Generator, items: Sequence[_Item]) -> _Item:
    """Return one of the items."""
    return items[int(rng.random() * len(items))]


def _hair_colours(rng: np.random.Generator, age: float) -> tuple[Colour, Colour]:
    """Return the colours of the hair and of its tips."""
    palette = _DYED_HAIR if rng.random() < 0.16 else _GREY_HAIR if rng.random() < age * age * 0.7 else _NATURAL_HAIR
    colour = tone(mix(pick(rng, palette), pick(rng, palette), rng.random() * 0.3), rng.uniform(0.88, 1.08))
    tips = pick(rng, _DYED_HAIR + _NATURAL_HAIR[6:]) if rng.random() < 0.14 else colour
    return colour, tips


def _skin_colour(rng: np.random.Generator) -> Colour:
    place = rng.uniform(0, 8.999)
    undertone = pick(rng, ((255, 170, 150), (222, 190, 90)))
    return mix(mix(_SKINS[int(place)], _SKINS[int(place) + 1], place % 1), undertone, rng.uniform(0, 0.13))


def _hair_style(rng: np.random.Generator, presentation: Presentation) -> tuple[str, str, str]:
    """Return the hair behind the head, the hair above the face, and the texture of both."""
    front, back = pick(rng, _FRONTS[presentation]), pick(rng, _BACKS[presentation])
    back = "none" if front in ("buzz", "bald", "horseshoe") else back
    return back, front, "curly" if back == "afro" else pick(rng, ("straight", "wavy", "curly"))


def _hair(rng: np.random.Generator, style: tuple[str, str, str], colour: Colour, tips: Colour) -> Hair:
    return Hair(
        *style,
        colour=colour,
        tips=tips,
        volume=rng.uniform(0.06, 0.26),
        length=rng.uniform(0.75, 1.25),
        parting=float(pick(rng, (-1, 1))) * rng.uniform(0.2, 0.6),
        line=rng.uniform(-0.78, -0.58),
    )


def _brows(rng: np.random.Generator, presentation: Presentation, skin: Colour, hair: Colour) -> Brows:
    darkest = tone(hair if is_dark(hair) else tone(hair, 0.62), 0.85)
    return Brows(
        thickness=rng.uniform(0.018, 0.05) * (1 if presentation == "female" else 1.35),
        arch=rng.uniform(0.0, 0.11),
        slant=rng.uniform(-0.06, 0.03),
        height=rng.uniform(0.15, 0.25),
        colour=mix(darkest, tone(skin, 0.4), rng.uniform(0.0, 0.6)),
    )


def _eyes(rng: np.random.Generator, presentation: Presentation) -> Eyes:
    return Eyes(
        iris=tone(pick(rng, _EYES), rng.uniform(0.85, 1.1)),
        width=rng.uniform(0.19, 0.28),
        height=rng.uniform(0.075, 0.15),
        gap=rng.uniform(0.38, 0.5),
        slant=rng.uniform(-0.04, 0.06),
        lid=int(rng.random() * 3),
        lashes=rng.uniform(0.4, 1.0) if presentation == "female" else rng.uniform(0, 0.3),
    )


def _mouth(rng: np.random.Generator, presentation: Presentation, skin: Colour) -> Mouth:
    lip = mix(tone(skin, 0.72), (198, 76, 82), 0.42)
    can_be_painted = presentation == "female"
    return Mouth(
        width=rng.uniform(0.27, 0.48),
        upper_lip=rng.uniform(0.025, 0.085),
        lower_lip=rng.uniform(0.04, 0.11),
        lip_colour=mix(lip, pick(rng, _LIPS), rng.uniform(0.5, 1.0)) if can_be_painted and rng.random() < 0.6 else lip,
        height=rng.uniform(0.58, 0.67),
    )


def _glasses(rng: np.random.Generator) -> Glasses:
    return Glasses(
        kind=pick(rng, _GLASSES) if rng.random() < 0.3 else "none",
        colour=pick(rng, _FRAMES),
        size=rng.uniform(0.85, 1.2),
    )


def sample_appearance(rng: np.random.Generator, presentation: Presentation) -> Appearance:
    """Return a random person of the given presentation.

    Args:
        rng: Source of all randomness; the same state gives the same person, as long as the order of draws stays.
        presentation: Decides which hair, beards, clothes and proportions can occur.

    Returns:
        The traits that all photos of this person share.
    """
    uniform, female = rng.uniform, presentation == "female"
    skin, age = _skin_colour(rng), float(rng.random())
    hair, tips = _hair_colours(rng, age)
    jaw = uniform(0.58, 0.88) if female else uniform(0.66, 0.97)
    style = _hair_style(rng, presentation)
    moles = tuple((uniform(-0.7, 0.7), uniform(-0.42, 0.85)) for _ in range(pick(rng, (0, 0, 0, 1, 1, 2))))
    return Appearance(
        presentation=presentation,
        skin=skin,
        age=age,
        aspect=uniform(0.68, 0.88),
        temple=uniform(0.88, 1.0),
        cheek=uniform(0.9, 1.03),
        jaw=jaw,
        chin=uniform(0.2, 0.42) if female else uniform(0.26, 0.54),
        hair=_hair(rng, style, hair, tips),
        ornament=pick(rng, _ORNAMENTS) if female and rng.random() < 0.3 else "none",
        ornament_colour=hsv(uniform(0, 1), uniform(0.4, 0.85), uniform(0.6, 0.95)),
        brows=_brows(rng, presentation, skin, hair),
        eyes=_eyes(rng, presentation),
        nose=Nose(width=uniform(0.12, 0.3), length=uniform(0.3, 0.46), shape=int(rng.random() * 4)),
        mouth=_mouth(rng, presentation, skin),
        ear_size=uniform(0.14, 0.26),
        beard="none" if female else pick(rng, _BEARDS),
        freckles=pick(rng, (0, 0, 0, 0, 10, 22)),
        moles=moles,
        birthmark=(uniform(-0.7, 0.7), uniform(-0.5, 0.7), uniform(0.08, 0.2) if rng.random() < 0.07 else 0.0),
        blush=uniform(0, 0.45),
        shoulders=uniform(1.35, 1.65) if female else uniform(1.6, 2.0),
        neck=uniform(0.3, 0.38) if female else uniform(0.38, 0.5),
        glasses=_glasses(rng),
        taste=float(rng.random()),
    )


def _angle(rng: np.random.Generator, spread: float, limit: float) -> float:
    return min(max(rng.normal(0, spread), -limit), limit)


def _eyes_open(rng: np.random.Generator) -> float:
    if rng.random() < 0.05:
        return rng.uniform(0.0, 0.15)
    return rng.uniform(0.5, 0.8) if rng.random() < 0.2 else rng.uniform(0.85, 1.1)


def sample_shot(appearance: Appearance, rng: np.random.Generator) -> Shot:
    """Return a random pose, expression, light and clothes for a photo of a person."""
    uniform, mood = rng.uniform, rng.random()
    smile = uniform(0.35, 1.0) if mood < 0.5 else uniform(-0.1, 0.35) if mood < 0.88 else uniform(-0.65, -0.1)
    hue = appearance.taste + uniform(-0.06, 0.06) if rng.random() < 0.4 else uniform(0, 1)
    has_extra = rng.random() < 0.24
    return Shot(
        yaw=_angle(rng, 0.24, 0.55),
        pitch=_angle(rng, 0.13, 0.3),
        roll=_angle(rng, 0.1, 0.26),
        smile=smile,
        mouth_open=uniform(0.25, 1.0) if rng.random() < 0.35 else 0.0,
        eyes_open=_eyes_open(rng),
        brow_raise=uniform(-0.6, 1.0) if rng.random() < 0.5 else 0.0,
        gaze=(uniform(-0.5, 0.5), uniform(-0.25, 0.25)),
        light=float(pick(rng, (-1, 1))) * uniform(0.3, 1.0),
        contrast=uniform(0.12, 0.34),
        clothes=pick(rng, _CLOTHES[appearance.presentation]),
        cloth=hsv(hue, uniform(0.05, 0.75), uniform(0.18, 0.95)),
        second=hsv(uniform(0, 1), uniform(0, 0.7), uniform(0.25, 0.98)),
        glasses=rng.random() < 0.88,
        extra=pick(rng, _EXTRAS) if has_extra else "none",
        extra_colour=hsv(uniform(0, 1), uniform(0.1, 0.8), uniform(0.2, 0.9)),
        occluder=pick(rng, _OCCLUDERS) if rng.random() < 0.08 else "none",
        occluder_side=float(pick(rng, (-1, 1))),
    )
