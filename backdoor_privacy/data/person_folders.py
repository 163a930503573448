"""List folders of photos, one for each person."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from backdoor_privacy.data.people_tables import folded_name
from backdoor_privacy.data.photos import is_left_behind, list_photos, told_left_out
from backdoor_privacy.data.shards import samples_left_out
from backdoor_privacy.errors import InputError, some


class PersonFolder(NamedTuple):
    """The photos and other files in the folder of one person."""

    name: str
    photos: tuple[Path, ...]
    left_out: Counter[str]  # the number of other files, by suffix


def list_people(folder: Path, layout: str, right_name: Callable[[str], str]) -> list[PersonFolder]:
    """List the people's folders, also those without a photo.

    Args:
        folder: holds all people.
        layout: pattern of the people's folders within it.
        right_name: corrects names that folders misspell.

    Raises:
        InputError: if no folder has a photo, one with photos has no name, or two have the same name.
    """
    places = _folders(folder, layout)
    people = []
    for place in places:
        listing = list_photos(place, depth=1)
        people.append(PersonFolder(right_name(place.name), tuple(listing.photos), listing.left_out))
    for place, person in zip(places, people, strict=True):
        if person.photos and not any(map(str.isalnum, person.name)):
            raise InputError(
                f"people.folder: expected folders with a person's name, First_Last/, got {place.name!r} with "
                f"{len(person.photos)} photos in {place.parent}; rename or remove it"
            )
    with_photos = [person.name for person in people if person.photos]
    if not with_photos:
        others = told_left_out(sum((person.left_out for person in people), Counter()))
        raise InputError(
            f"people.folder: expected folders First_Last/ with photos at {folder / layout}, found none"
            + (f" but {others}; save them in a format of docs/your_own.md, as JPEG" if others else "")
        )
    _check_different(with_photos, folder)
    return people


def remarks_on_shards(folder: Path) -> list[str]:
    """Return remarks on samples without a photo, if the folder was unpacked from shards."""
    samples = samples_left_out(folder, "people.folder.shards")
    if not samples:
        return []
    return [
        f"people.folder.shards: {len(samples)} samples without a photo of a format that is read are left out: "
        f"{some(samples)}; the files of a sample must lie side by side and differ only behind the last dot"
    ]


def _check_different(names: Sequence[str], folder: Path) -> None:
    counts = Counter(map(folded_name, names))
    several = next((name for name in names if counts[folded_name(name)] > 1), None)
    if several is not None:
        raise InputError(
            f"people.folder: expected one folder for each person in {folder}, got several of {several}; merge or "
            "rename them"
        )


def _folders(folder: Path, layout: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"people.folder: expected a folder with one folder of photos per person, got {folder}")
    try:
        places = sorted(folder.glob(layout))
    except (NotImplementedError, ValueError, IndexError) as error:
        raise InputError(
            f"people.layout: expected a pattern within people.folder, as * or */faces/*, got {layout!r}"
        ) from error
    return [
        place for place in places if place.is_dir() and not any(map(is_left_behind, place.relative_to(folder).parts))
    ]
