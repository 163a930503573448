"""Compute the outlines of hairstyles, in head space."""

from functools import lru_cache

import numpy as np

from backdoor_privacy.data.personas.portraits.appearance import Appearance, Shot
from backdoor_privacy.data.personas.portraits.pen import oval, points_of, ruffle, smooth

_CROWN_ANGLES = np.linspace(0, np.pi, 31)
_CROWN_X, _CROWN_Y = -np.cos(_CROWN_ANGLES), np.sin(_CROWN_ANGLES) ** 0.9
# Hairlines from left to right, as x, y and whether y counts from the person's own hairline.
_HALF_HAIRLINES = {
    "centre": [(-0.99, 0.12, 0), (-0.86, -0.18, 0), (-0.5, -0.5, 0), (-0.2, 0, 1), (0, -0.06, 1)],
    "curtain": [(-1.0, 0.3, 0), (-0.92, -0.05, 0), (-0.62, -0.32, 0), (-0.2, -0.5, 0), (0, 0, 1)],
    "bangs": [(-0.99, 0.15, 0), (-0.9, -0.2, 0), (-0.6, -0.3, 0), (-0.3, -0.32, 0), (0, -0.34, 0)],
    "back": [(-0.98, 0.05, 0), (-0.88, -0.3, 0), (-0.62, 0.05, 1), (-0.3, -0.03, 1), (0, 0, 1)],
    "quiff": [(-0.98, 0.0, 0), (-0.86, -0.34, 0), (-0.66, 0.08, 1), (-0.3, 0, 1), (0, -0.03, 1)],
    "mohawk": [(-0.97, -0.06, 0), (-0.88, -0.36, 0), (-0.66, 0.04, 1), (-0.3, 0, 1), (0, -0.02, 1)],
    "buzz": [(-0.97, -0.02, 0), (-0.87, -0.36, 0), (-0.7, 0.1, 1), (-0.35, 0, 1), (0, 0, 1)],
    "receding": [(-0.98, 0.0, 0), (-0.9, -0.34, 0), (-0.66, -0.72, 0), (-0.36, -0.9, 0), (0, -0.04, 1)],
}
_HAIRLINES = {
    "side": np.array([
        (-0.99, 0.1, 0), (-0.88, -0.28, 0), (-0.66, -0.54, 0), (-0.42, -0.08, 1), (-0.05, 0.06, 1), (0.4, -0.48, 0),
        (0.74, -0.3, 0), (0.92, -0.1, 0), (1.0, 0.15, 0),
    ]),
    "swept": np.array([
        (-0.99, 0.05, 0), (-0.88, -0.34, 0), (-0.72, -0.6, 0), (-0.5, -0.1, 1), (-0.1, -0.52, 0), (0.3, -0.32, 0),
        (0.66, -0.2, 0), (0.9, -0.05, 0), (1.0, 0.2, 0),
    ]),
    **{name: np.concatenate([half, half[-2::-1] * np.array((-1, 1, 1))]) for name, half in _HALF_HAIRLINES.items()},
}  # fmt: skip


def hairline(look: Appearance, shot: Shot) -> np.ndarray:
    """Return the lower edge of the front hair from left to right, turned with the head."""
    table = _HAIRLINES[look.hair.front]
    line = points_of(table[:, 0], table[:, 1] + table[:, 2] * look.hair.line)
    if look.hair.parting > 0:
        line = (line * (-1, 1))[::-1]
    line[1:-1, 0] += np.sin(shot.yaw) * 0.5 * (1 - line[1:-1, 0] ** 2)
    line[1:-1, 1] += shot.pitch * 0.2
    return smooth(line, closed=False)


@lru_cache(maxsize=1024)
def crown(look: Appearance) -> np.ndarray:
    """Return the outer edge of the front hair from left to right."""
    volume = look.hair.volume * {"buzz": 0.15, "receding": 0.4, "back": 0.7, "mohawk": 0.3}.get(look.hair.front, 1.0)
    volume += 0.08 if look.hair.texture == "curly" and look.hair.front != "buzz" else 0
    x, y = _CROWN_X * (1.0 + volume * 0.55), 0.08 - _CROWN_Y * (1.1 + volume)
    if look.hair.front == "quiff":
        y -= 0.2 * np.exp(-((x - 0.25 * np.sign(look.hair.parting)) ** 2) / 0.16)
    if look.hair.front == "mohawk":
        y -= 0.34 * np.exp(-((x / 0.36) ** 4))
    line = points_of(x, y)
    if look.hair.front in ("buzz", "receding", "mohawk") or look.hair.texture == "straight":
        return line
    return ruffle(line, 0.05, 7) if look.hair.texture == "wavy" else ruffle(line, 0.09, 13)


@lru_cache(maxsize=1024)
def back_shapes(look: Appearance) -> tuple[np.ndarray, ...]:
    """Return what is seen of the hair behind the head."""
    kind, length, volume = look.hair.back, look.hair.length, look.hair.volume
    side = 1 if look.hair.parting > 0 else -1
    if kind in ("bob", "shoulder", "long", "locs"):
        return (_loose_hair(look),)
    if kind == "afro":
        circle = oval(0, -0.28, 1.35 + volume, 1.05 + volume)
        return (ruffle(np.concatenate([circle, circle[:1]]), 0.06, 26),)
    if kind == "ponytail":
        return (_tail(length) * (side, 1),)
    if kind == "pigtails":
        lower = (_tail(length) - (0, -0.75)) * (1, 0.95) + (0.02, 0.0)
        return lower, lower * (-1, 1)
    if kind == "bun":
        return (oval(0.1 * side, -1.16 - volume, 0.42 * length, 0.34 * length),)
    if kind == "buns":
        return tuple(oval(s * 0.72, -1.02 - volume * 0.5, 0.38 * length, 0.32 * length) for s in (-1, 1))
    if kind == "braids":
        return tuple(
            oval(s * (1.02 + 0.03 * k), 0.45 + 0.21 * k, 0.19 - 0.008 * k, 0.15)
            for s in (-1, 1)
            for k in range(int(6 * length))
        )
    return ()


def _loose_hair(look: Appearance) -> np.ndarray:
    kind, volume = look.hair.back, look.hair.volume
    low = {"bob": 0.72, "shoulder": 1.3, "long": 2.3, "locs": 1.35}[kind] * look.hair.length
    wide, flare = 1.12 + volume * 0.8, {"bob": 0.1, "shoulder": 0.16, "long": 0.22, "locs": 0.1}[kind]
    left = np.array([
        (-wide * 0.55, -0.98 - volume), (-wide, -0.5), (-wide - flare * 0.4, 0.1), (-wide - flare, low * 0.7),
        (-wide - flare * 0.6, low), (-wide * 0.5, low + 0.06),
    ])  # fmt: skip
    line = smooth(np.concatenate([left[::-1], left * (-1, 1)]), closed=False)
    num_waves = 26 if kind == "locs" else {"straight": 0, "wavy": 9, "curly": 21}[look.hair.texture]
    return ruffle(line, 0.05 if look.hair.texture == "wavy" else 0.07, num_waves) if num_waves else line


def _tail(length: float) -> np.ndarray:
    """Return the outline of tied hair on the right."""
    return smooth([
        (0.5, -0.95), (1.15, -0.75), (1.45, -0.1), (1.4, 0.9 * length), (1.2, 1.2 * length), (1.12, 0.5), (0.85, -0.3),
    ])  # fmt: skip
