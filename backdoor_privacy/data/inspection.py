"""Look data over for what is broken, duplicated or odd."""

import hashlib
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from backdoor_privacy.data.captions import name_matcher
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photos import Box, overlaps, photo_loader

MAX_NAME_LENGTH = 60
_NO_CONTENT = hashlib.sha256(b"").hexdigest()  # of files that are empty or cannot be read


class Decoded(NamedTuple):
    """The size of an upright photo, and how it was changed to be read."""

    width: int  # pixels
    height: int
    is_turned: bool = False  # as its EXIF orientation says
    is_scaled: bool = False  # from 16 bits or floats

    @classmethod
    def of(cls, photo: Image.Image) -> "Decoded":
        """Describe a photo that `read_photo` returned."""
        return cls(*photo.size, photo.info["is_turned"], photo.info["is_scaled"])


def photo_sizes(photos: Sequence[Path], num_workers: int) -> dict[Path, Decoded]:
    """Decode all photos, with a progress bar; return the sizes of those that decode."""
    loader = photo_loader(photos, _as_tensor, batch_size=64, num_workers=num_workers)
    return {
        photos[place]: Decoded(width, height, bool(turned), bool(scaled))
        for batch in track(loader, "Decoding photos", transient=True, disable=not sys.stdout.isatty())
        for (width, height, turned, scaled), place in zip(batch.pixels.tolist(), batch.places.tolist(), strict=True)
    }


def _as_tensor(photo: Image.Image) -> Tensor:
    return torch.tensor(Decoded.of(photo))


def outside(boxes: Mapping[Path, Box], decoded: Mapping[Path, Decoded]) -> list[Path]:
    """Return photos whose face box lies outside of them."""
    sizes = {path: (decoded[path].width, decoded[path].height) for path in boxes if path in decoded}
    return [path for path, size in sizes.items() if not overlaps(boxes[path], *size)]


def num_different(person: Person) -> int:
    """Count the photos of different content."""
    return len(set(person.hashes.values()))


def shared_photos(people: Sequence[Person], others: Sequence[Person] | None = None) -> Counter[tuple[str, str]]:
    """Count the photos, equal byte for byte, that two of these people share, or one of them and one of the others."""
    owners = _owners(people)
    if others is None:
        return Counter((a, b) for names in owners.values() for a, b in product(names, names) if a < b)
    theirs = _owners(others)
    both = owners.keys() & theirs.keys()
    return Counter((a, b) for content in both for a, b in product(owners[content], theirs[content]) if a != b)


def _owners(people: Iterable[Person]) -> dict[str, list[str]]:
    """Return the names of the people who have a photo, by the SHA-256 of its content."""
    owners: dict[str, list[str]] = defaultdict(list)
    for person in people:
        for content in set(person.hashes.values()) - {_NO_CONTENT}:
            owners[content].append(person.name)
    return owners


def names_in(captions: Sequence[str], names: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """Return the captions that hold any of the names, and how many hold each."""
    matching = list(filter(name_matcher(names), captions))
    if len(names) < 2 or not matching:
        return matching, Counter({name: len(matching) for name in names if matching})
    # Half of the names at a time: few captions hold a name, and few names are in captions.
    middle = len(names) // 2
    return matching, names_in(matching, names[:middle])[1] + names_in(matching, names[middle:])[1]


def odd_names(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names that may be mistakes, by what is odd about them."""
    alike = defaultdict(list)
    for name in names:
        alike[_plain(name)].append(name)
    return {
        "of one word, which may mean something else in a caption": [name for name in names if " " not in name],
        f"longer than {MAX_NAME_LENGTH} characters, which may not fit into a text": [
            name for name in names if len(name) > MAX_NAME_LENGTH
        ],
        "the same but for case and accents": [" = ".join(same) for same in alike.values() if len(same) > 1],
    }


def _plain(name: str) -> str:
    """Return a name without case and accents."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
