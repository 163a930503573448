"""People with photos: who can be attacked, and who can be removed."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from backdoor_privacy.data.photos import Box
from backdoor_privacy.errors import InputError

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Person:
    """One individual."""

    name: str
    photos: tuple[Path, ...]
    member: bool | None = None  # in the CLIP's training data; None where nobody knows
    num_web_photos: int | None = None  # photos with the name in the CLIP's training data, where known

    @cached_property
    def _halves(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Photos in the order of their content hash, cut in two; exact duplicates stay together."""
        hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.photos}
        ordered = sorted(self.photos, key=lambda path: (hashes[path], path.name))
        cut = len(ordered) // 2
        while 0 < cut < len(ordered) and hashes[ordered[cut - 1]] == hashes[ordered[cut]]:
            cut += 1
        return tuple(ordered[:cut]), tuple(ordered[cut:])

    @property
    def trigger_photos(self) -> tuple[Path, ...]:
        """Photos that a defence may train on; no attack sees them."""
        return self._halves[0]

    @property
    def attack_photos(self) -> tuple[Path, ...]:
        """Photos that attacks use; no defence sees them."""
        return self._halves[1]


@dataclass(frozen=True)
class People:
    """Everybody in a collection, and the face boxes of their photos where there are some."""

    everybody: tuple[Person, ...]
    boxes: dict[Path, Box] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> list[str]:
        """All names, in the order of the collection."""
        return [person.name for person in self.everybody]

    def pick(self, names: Sequence[str]) -> tuple[Person, ...]:
        """The people of these names.

        Raises:
            InputError: if somebody is not in the collection.
        """
        by_name = {person.name.casefold(): person for person in self.everybody}
        missing = [name for name in names if _plain(name).casefold() not in by_name]
        if missing:
            raise InputError(
                f"trigger_set.people: expected names of people in the data ({len(self.everybody)} of them), "
                f"got {', '.join(map(repr, missing[:5]))}; check the spelling or choose people=..."
            )
        return tuple(by_name[_plain(name).casefold()] for name in names)


def load_people(folder: str | Path) -> People:
    """A folder per person, `First_Last/*.jpg`.

    Two tables may lie beside the folders: `boxes.csv` (file, left, top, right, bottom) with the faces, and
    `people.csv` (name, member, num_web_photos) with what is known of the CLIP's training data.

    Raises:
        InputError: if there is no folder with photos.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"people.folder: expected a folder with one folder of photos per person, got {folder}")
    known = {row["name"]: row for row in _read_table(folder / "people.csv")}
    everybody = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        photos = tuple(sorted(path for path in place.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES))
        name = _plain(place.name)
        row = known.get(name)
        if photos and row is None:
            everybody.append(Person(name, photos))
        elif photos and row is not None:
            everybody.append(Person(name, photos, row["member"] == "True", int(row["num_web_photos"])))
    if not everybody:
        raise InputError(f"people.folder: expected folders First_Last/ with photos in {folder}, found none")
    boxes = {
        folder / row["file"]: (int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"]))
        for row in _read_table(folder / "boxes.csv")
    }
    return People(tuple(everybody), boxes)


def _plain(name: str) -> str:
    """A folder's name as a person's name."""
    return name.replace("_", " ").strip()


def _read_table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
