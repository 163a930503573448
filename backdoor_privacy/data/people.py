"""People with photos: who can be attacked, and who can be removed."""

import csv
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from backdoor_privacy.data.photos import Box
from backdoor_privacy.errors import InputError

_MEMBER = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": None}
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
    `people.csv` (name, member, num_web_photos) with what is known of the CLIP's training data; an empty cell or a
    column that is not there says that it is not known.

    Raises:
        InputError: if there is no folder with photos, two of one name, or a table holds something else.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"people.folder: expected a folder with one folder of photos per person, got {folder}")
    known = {row["name"]: row for row in _read_table(folder / "people.csv")}
    everybody = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        photos = tuple(sorted(path for path in place.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES))
        name = _plain(place.name)
        if photos:
            row = known.get(name, {})
            everybody.append(Person(name, photos, _member(row, folder), _whole_number(row, "num_web_photos", folder)))
    if not everybody:
        raise InputError(f"people.folder: expected folders First_Last/ with photos in {folder}, found none")
    twice = [name for name, count in Counter(person.name for person in everybody).items() if count > 1]
    if twice:
        raise InputError(f"people.folder: expected one folder for each person in {folder}, got several of {twice[0]}")
    return People(
        tuple(everybody), {folder / row["file"]: _box(row, folder) for row in _read_table(folder / "boxes.csv")}
    )


def _member(row: Mapping[str, str], folder: Path) -> bool | None:
    value = (row.get("member") or "").strip().casefold()
    if value not in _MEMBER:
        raise InputError(f"{folder / 'people.csv'}: expected true, false or nothing as member, got {row['member']!r}")
    return _MEMBER[value]


def _whole_number(row: Mapping[str, str], column: str, folder: Path) -> int | None:
    value = (row.get(column) or "").strip()
    if value and not value.isdecimal():
        raise InputError(f"{folder / 'people.csv'}: expected a whole number or nothing as {column}, got {value!r}")
    return int(value) if value else None


def _box(row: Mapping[str, str], folder: Path) -> Box:
    try:
        return int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / 'boxes.csv'}: expected file, left, top, right and bottom in pixels, got {dict(row)}"
        ) from error


def _plain(name: str) -> str:
    """A folder's name as a person's name."""
    return name.replace("_", " ").strip()


def _read_table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        key = "file" if path.name == "boxes.csv" else "name"
        if key not in (table.fieldnames or ()):
            raise InputError(f"{path}: expected a table with a column {key}, got {', '.join(table.fieldnames or ())}")
        return list(table)
