"""Define what is drawn: the traits of a person, and what one photo adds to them."""

from dataclasses import dataclass
from typing import Literal

from backdoor_privacy.data.personas.portraits.colours import Colour

Presentation = Literal["female", "male"]


@dataclass(frozen=True)
class Hair:
    """The hairstyle: what is above the face, and what is behind the head."""

    back: str
    front: str
    texture: str
    colour: Colour
    tips: Colour
    volume: float
    length: float
    parting: float  # below 0 on the left, above 0 on the right
    line: float


@dataclass(frozen=True)
class Brows:
    """The eyebrows; a beard has their colour."""

    thickness: float
    arch: float
    slant: float
    height: float
    colour: Colour


@dataclass(frozen=True)
class Eyes:
    """The eyes with lids and lashes."""

    iris: Colour
    width: float
    height: float
    gap: float
    slant: float
    lid: int
    lashes: float


@dataclass(frozen=True)
class Nose:
    """The nose."""

    width: float
    length: float
    shape: int


@dataclass(frozen=True)
class Mouth:
    """The mouth."""

    width: float
    upper_lip: float
    lower_lip: float
    lip_colour: Colour
    height: float


@dataclass(frozen=True)
class Glasses:
    """The person's own glasses."""

    kind: str
    colour: Colour
    size: float


@dataclass(frozen=True)
class Appearance:
    """Traits of one person that every photo shares; lengths are in half head heights."""

    presentation: Presentation
    skin: Colour
    age: float  # 0 young, 1 old
    aspect: float
    temple: float
    cheek: float
    jaw: float
    chin: float
    hair: Hair
    ornament: str
    ornament_colour: Colour
    brows: Brows
    eyes: Eyes
    nose: Nose
    mouth: Mouth
    ear_size: float
    beard: str
    freckles: int
    moles: tuple[tuple[float, float], ...]
    birthmark: tuple[float, float, float]  # centre and radius; radius 0 for none
    blush: float
    shoulders: float
    neck: float
    glasses: Glasses
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
