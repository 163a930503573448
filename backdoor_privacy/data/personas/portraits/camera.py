"""Frame a photo, and apply what the camera does to light."""

import numpy as np
from PIL import Image, ImageChops, ImageFilter

_RAMP = np.linspace(0, 1, 256)


def frame(bounds: tuple[float, float, float, float], rng: np.random.Generator) -> tuple[float, float, float]:
    """Return the unit length and the head's centre, as shares of the side, for a face box given at unit length 1."""
    left, top, right, bottom = bounds
    height = rng.uniform(0.40, 0.72)
    unit = height / (bottom - top)
    slack = -0.09 if rng.random() < 0.12 else 0.02  # below 0, the picture's edge may cut the face
    spread = 2 if slack < 0 else 1
    x = _within(rng.normal(0.5, 0.12 * spread), unit * (right - left), slack)
    y = _within(rng.normal(0.53, 0.06 * spread), height, slack)
    return unit, x - unit * (left + right) / 2, y - unit * (top + bottom) / 2


def _within(middle: float, extent: float, slack: float) -> float:
    """Return the middle, moved so that its extent fits into 0..1."""
    low, high = extent / 2 + slack * extent, 1 - extent / 2 - slack * extent
    return min(max(middle, low), high) if low < high else 0.5


def expose(image: Image.Image, rng: np.random.Generator, light: float) -> Image.Image:
    """Apply light falling off to one side, then colour cast, exposure, contrast, blur, grain and at times no colour."""
    slope = rng.uniform(0.0, 0.22)
    falloff = Image.new("L", (2, 2))
    left, right = (int(255 * (1 - slope * (1 - light * s) / 2)) for s in (-1, 1))
    falloff.putdata([left, right, int(left * 0.93), int(right * 0.93)])
    falloff = falloff.resize(image.size, Image.Resampling.BILINEAR)
    image = ImageChops.multiply(image, Image.merge("RGB", [falloff] * 3))
    ramp = _RAMP ** rng.uniform(0.75, 1.12)
    ramp = (ramp - 0.5) * rng.uniform(0.85, 1.2) + 0.51 + rng.normal(0, 0.03)
    table = ramp * (1 + rng.normal(0, 0.035, (3, 1))) * 255
    image = image.point(np.clip(table, 0, 255).astype(int).ravel().tolist())
    if rng.random() < 0.06:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6) * image.width / 96))
    if rng.random() < 0.3:
        grain = rng.normal(0, rng.uniform(2, 9), (image.height, image.width, 1)).astype(np.int16)
        image = Image.fromarray(np.clip(np.asarray(image, np.int16) + grain, 0, 255).astype(np.uint8))
    return image
