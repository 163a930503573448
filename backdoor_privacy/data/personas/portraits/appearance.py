"""What is drawn: the traits of a person, and what one photo adds to them."""

from dataclasses import dataclass
from typing import Literal

from backdoor_privacy.data.personas.portraits.colours import Colour


@dataclass(frozen=True)
class Appearance:
    """Traits of one person that every photo shares; lengths are in half head heights."""

    presentation: Literal["female", "male"]
    skin: Colour
    age: float  # 0 young, 1 old
    aspect: float
    temple: float
    cheek: float
    jaw: float
    chin: float
    hair_back: str
    hair_front: str
    texture: str
    hair: Colour
    hair_tips: Colour
    volume: float
    hair_length: float
    parting: float  # below 0 on the left, above 0 on the right
    hairline: float
    ornament: str
    ornament_colour: Colour
    brow_thickness: float
    brow_arch: float
    brow_slant: float
    brow_height: float
    brow_colour: Colour
    iris: Colour
    eye_width: float
    eye_height: float
    eye_gap: float
    eye_slant: float
    lid: int
    lashes: float
    nose_width: float
    nose_length: float
    nose_shape: int
    mouth_width: float
    lip_upper: float
    lip_lower: float
    lip_colour: Colour
    mouth_height: float
    ear_size: float
    beard: str
    freckles: int
    moles: tuple[tuple[float, float], ...]
    birthmark: tuple[float, float, float]  # centre and radius; radius 0 for none
    blush: float
    shoulders: float
    neck: float
    glasses: str
    glasses_colour: Colour
    glasses_size: float
    taste: float  # hue of the clothes the person likes


@dataclass(frozen=True)
class Shot:
    """What one photo adds to a person: pose and light in -1..1, angles in radians, expression in 0..1 or -1..1."""

    yaw: float
    pitch: float
    roll: float
    smile: float
    mouth_open: float
    eyes_open: float
    brow_raise: float
    gaze: tuple[float, float]
    light: float
    contrast: float
    clothes: str
    cloth: Colour
    second: Colour
    glasses: bool
    extra: str
    extra_colour: Colour
    occluder: str
    occluder_side: float
