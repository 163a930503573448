"""Put a face onto a photo, and vary whole photos."""

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


@dataclass(frozen=True)
class PhotoVariation:
    """Another photo of the same: flipped, cropped and recoloured at random, so that a few photos stand for many."""

    share: float = 0.0  # of the photos; the others stay as they are
    min_crop: float = 0.7  # share of the area that a crop keeps at least
    max_colour_change: float = 0.2  # brightness, contrast and saturation lie in [1 - this, 1 + this]
    max_hue_change: float = 0.02

    def __call__(self, photo: Float[Tensor, "3 side side"], rng: torch.Generator) -> Float[Tensor, "3 side side"]:
        """The photo or a variation of it, pixels in [0, 1]."""
        if _uniform(rng, 0, 1) >= self.share:
            return photo
        strength = self.max_colour_change
        vary = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomResizedCrop(photo.shape[-1], scale=(self.min_crop, 1.0), ratio=(0.9, 1.1)),
                v2.ColorJitter(strength, strength, strength, self.max_hue_change),
            ]
        )
        with torch.random.fork_rng(devices=[]):  # these transforms take no generator
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=rng)))
            return vary(photo)


def _uniform(rng: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))
