"""Which photos an attack sees, and what an image encoder makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import Person


class Photos(NamedTuple):
    """What an image encoder makes of people's photos; those that cannot be read are left out."""

    features: Float[Tensor, "photo dim"]  # of unit length
    person_index: Int[Tensor, "photo"]
    numbers: Int[Tensor, "photo"]  # of each among its person's photos, from 0, the unreadable ones counted


@dataclass(frozen=True)
class Shown(Person):
    """A person of whom an attack sees some of the photos."""

    shown: tuple[Path, ...] = ()

    @property
    def attack_photos(self) -> tuple[Path, ...]:
        """These photos."""
        return self.shown


def see_photos(clip: Clip, shown: Sequence[Sequence[Path]]) -> Photos:
    """Embed each person's photos; those that cannot be read are left out."""
    features, readable = clip.embed_photos([path for photos in shown for path in photos])
    counts = torch.tensor([len(photos) for photos in shown])
    person_index = torch.repeat_interleave(torch.arange(len(shown)), counts)
    numbers = torch.arange(len(person_index)) - (counts.cumsum(0) - counts)[person_index]
    return Photos(features[readable], person_index[readable], numbers[readable])


def distinct_photos(person: Person) -> tuple[Path, ...]:
    """Return the photos of a person that attacks may see, exact duplicates once."""
    return tuple({person.hashes[path]: path for path in person.attack_photos}.values())


def halves(person: Person) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the photos that attacks may see in two halves: those at even and those at odd places."""
    photos = distinct_photos(person)
    return photos[::2], photos[1::2]
