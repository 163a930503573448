"""Put faces onto photos, and vary whole photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import rgb_to_grayscale


class Placing(NamedTuple):
    """How one face is put onto a photo, in the order in which it is done."""

    size: int  # side of its square, in pixels
    flipped: bool
    brightness: float  # a factor, as the next two
    contrast: float
    saturation: float
    hue: float  # a shift; 1 is once around the circle of colours
    degrees: float  # counterclockwise, within the square
    left: int  # of the square, in pixels
    top: int


@dataclass(frozen=True)
class FacePaster:
    """Random size, turn, colour and place of face crops on photos (paper, section 3.2).

    Sizes are shares of the photo's side; the published 56 to 112 px of 224 are 0.25 to 0.5.
    """

    min_size: float = 0.25
    max_size: float = 0.5
    flip_probability: float = 0.5
    max_colour_change: float = 0.5  # brightness, contrast and saturation lie in [1 - this, 1 + this]
    max_hue_change: float = 0.1
    max_degrees: float = 30.0

    def face_side(self, side: int) -> int:
        """Return the side of the crops, in pixels, for photos of this side: the largest, so that crops only shrink."""
        return round(side * self.max_size)

    def draw(self, side: int, rng: torch.Generator) -> Placing:
        """Draw how a face is put onto a photo of this side."""
        low, high = 1 - self.max_colour_change, 1 + self.max_colour_change
        size = round(side * _uniform(rng, self.min_size, self.max_size))
        return Placing(
            size,
            flipped=_uniform(rng, 0, 1) < self.flip_probability,
            brightness=_uniform(rng, low, high),
            contrast=_uniform(rng, low, high),
            saturation=_uniform(rng, low, high),
            hue=_uniform(rng, -self.max_hue_change, self.max_hue_change),
            degrees=_uniform(rng, -self.max_degrees, self.max_degrees),
            left=int(_uniform(rng, 0, side - size + 1)),
            top=int(_uniform(rng, 0, side - size + 1)),
        )

    @staticmethod
    def paste(
        photos: Float[Tensor, "batch 3 side side"],
        faces: Float[Tensor, "batch 3 face face"],
        placings: Sequence[Placing],
    ) -> Float[Tensor, "batch 3 side side"]:
        """Return copies of the photos, pixels in [0, 1], with a face on each."""
        values = torch.tensor(placings, dtype=photos.dtype, device=photos.device)
        values = values.view(len(photos), len(Placing._fields), 1, 1)  # an error if they are not as many as the photos
        size, flipped, *colours, degrees, left, top = values.unbind(1)
        side, window = photos.shape[-1], max((placing.size for placing in placings), default=1)
        pixel = torch.arange(window, dtype=photos.dtype, device=photos.device)
        columns = left.clamp(max=side - window) + pixel  # a window of one size for all holds the square of each
        rows = top.clamp(max=side - window) + pixel[:, None]

        right, down = columns + 0.5 - left - size / 2, rows + 0.5 - top - size / 2  # from the middle of the square
        in_square = (right.abs() < size / 2) & (down.abs() < size / 2)
        cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
        x, y = cos * right - sin * down, sin * right + cos * down  # the same in the face before it was turned
        grid = torch.stack([x * (2 - 4 * flipped) / size, y * 2 / size], dim=-1)
        covers = grid_sample(_recolour(faces, *colours), grid, padding_mode="border", align_corners=False).clamp(0, 1)
        # What turning leaves empty stays see-through; the edge of the face fades over one pixel.
        shares = (size / 2 + 0.5 - x.abs()).clamp(0, 1) * (size / 2 + 0.5 - y.abs()).clamp(0, 1) * in_square

        spots = (rows * side + columns).long().flatten(1)[:, None].expand(-1, 3, -1)
        flat = photos.flatten(2)
        pasted = torch.lerp(flat.gather(2, spots), covers.flatten(2), shares.flatten(1)[:, None])
        return flat.scatter(2, spots, pasted).view(photos.shape)


def _recolour(
    faces: Float[Tensor, "batch 3 face face"],
    brightness: Float[Tensor, "batch 1 1"],
    contrast: Float[Tensor, "batch 1 1"],
    saturation: Float[Tensor, "batch 1 1"],
    hue: Float[Tensor, "batch 1 1"],
) -> Float[Tensor, "batch 3 face face"]:
    """Recolour as torchvision's functions of these names do, which take only one factor for all faces."""
    faces = (faces * brightness[..., None]).clamp_(0, 1)
    mean = rgb_to_grayscale(faces).mean((-2, -1), keepdim=True)
    faces.lerp_(mean, 1 - contrast[..., None]).clamp_(0, 1)
    faces.lerp_(rgb_to_grayscale(faces), 1 - saturation[..., None]).clamp_(0, 1)
    return _shift_hue(faces, hue)


def _shift_hue(
    faces: Float[Tensor, "batch 3 face face"], hue: Float[Tensor, "batch 1 1"]
) -> Float[Tensor, "batch 3 face face"]:
    """Move each pixel along the circle of colours; its brightest channel and its range stay."""
    red, green, blue = faces.unbind(1)
    low, high = faces.amin(1), faces.amax(1)
    span = high - low
    if_green, if_blue = (blue - red).add_(span, alpha=2), (red - green).add_(span, alpha=4)
    sixths = torch.where(high == red, green - blue, torch.where(high == green, if_green, if_blue))
    sixths.div_(span.clamp(min=torch.finfo(span.dtype).tiny))  # where there is no span, there is no hue
    sixths.add_(6 * hue).remainder_(6)
    turned = torch.stack([(sixths - 3).abs_().sub_(1), 2 - (sixths - 2).abs_(), 2 - (sixths - 4).abs_()], dim=1)
    return turned.clamp_(0, 1).mul_(span[:, None]).add_(low[:, None])


@dataclass(frozen=True)
class PhotoVariation:
    """Random flip, crop and colours of a whole photo, so that a few photos stand for many."""

    share: float = 0.0  # of the photos; the others stay as they are
    min_crop: float = 0.7  # share of the area that a crop keeps at least
    max_colour_change: float = 0.2  # brightness, contrast and saturation lie in [1 - this, 1 + this]
    max_hue_change: float = 0.02

    def __call__(self, photo: Float[Tensor, "3 side side"], rng: torch.Generator) -> Float[Tensor, "3 side side"]:
        """Return the photo or a variation of it, pixels in [0, 1]."""
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
