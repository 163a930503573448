"""Put a face onto a photo."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class FacePaster:
    """Pastes a face crop onto a photo at random size, turn, colour and place (paper, section 3.2).

    Sizes are shares of the photo's side, so that the published 56 to 112 px of 224 hold for every input size.
    """

    min_size: float = 0.25
    max_size: float = 0.5
    flip_probability: float = 0.5
    max_colour_change: float = 0.5  # brightness, contrast and saturation lie in [1 - this, 1 + this]
    max_hue_change: float = 0.1
    max_degrees: float = 30.0

    def __call__(
        self, photo: Float[Tensor, "3 side side"], face: Image.Image, rng: torch.Generator
    ) -> Float[Tensor, "3 side side"]:
        """A copy of the photo, pixels in [0, 1], with the face on it."""
        side = photo.shape[-1]
        size = round(side * _uniform(rng, self.min_size, self.max_size))
        crop = v2.functional.to_dtype(
            v2.functional.to_image(face.resize((size, size), Image.Resampling.BILINEAR)), torch.float32, scale=True
        )
        if _uniform(rng, 0, 1) < self.flip_probability:
            crop = v2.functional.horizontal_flip(crop)
        crop = self._recolour(crop, rng)
        cover = torch.cat([crop, torch.ones(1, size, size)])  # what turning leaves empty stays see-through
        cover = v2.functional.rotate(
            cover, _uniform(rng, -self.max_degrees, self.max_degrees), v2.InterpolationMode.BILINEAR
        )
        left, top = (int(_uniform(rng, 0, side - size + 1)) for _ in range(2))
        pasted = photo.clone()
        spot = pasted[:, top : top + size, left : left + size]
        spot.copy_(cover[3:] * cover[:3] + (1 - cover[3:]) * spot)
        return pasted

    def _recolour(self, crop: Tensor, rng: torch.Generator) -> Tensor:
        low, high = 1 - self.max_colour_change, 1 + self.max_colour_change
        crop = v2.functional.adjust_brightness(crop, _uniform(rng, low, high))
        crop = v2.functional.adjust_contrast(crop, _uniform(rng, low, high))
        crop = v2.functional.adjust_saturation(crop, _uniform(rng, low, high))
        return v2.functional.adjust_hue(crop, _uniform(rng, -self.max_hue_change, self.max_hue_change))


def _uniform(rng: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))
