"""People with photos: who can be attacked, and who can be removed."""

import hashlib
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from backdoor_privacy.data.face_crops import FaceCropper, PersonFaces, explain_left_out
from backdoor_privacy.data.face_tables import FaceRow, read_face_table
from backdoor_privacy.data.photos import (
    PHOTO_SUFFIXES,
    Box,
    content_of,
    is_left_behind,
    list_photos,
    read_photo,
    told_left_out,
)
from backdoor_privacy.data.shards import LEFT_OUT
from backdoor_privacy.data.tables import read_table
from backdoor_privacy.data.texts import read_lines, text_lines
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.files import name_as_text

log = logging.getLogger(__name__)

_COLUMNS = {"name", "member", "num_web_photos", "file", "left", "top", "right", "bottom"}
_MEMBER = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": None}


@dataclass(frozen=True)
class Person:
    """One individual."""

    name: str
    photos: tuple[Path, ...]
    member: bool | None = None  # in the CLIP's training data; None where nobody knows
    num_web_photos: int | None = None  # photos with the name in the CLIP's training data, where known
    attributes: tuple[tuple[str, str], ...] = ()  # what else the collection says, as ("age", "older")

    @cached_property
    def hashes(self) -> dict[Path, str]:
        """The SHA-256 of each photo's file; exact duplicates have the same one."""
        return {path: hashlib.sha256(content_of(path)).hexdigest() for path in self.photos}

    @cached_property
    def _halves(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Photos in the order of their content hash, cut in two; exact duplicates stay together."""
        ordered = sorted(self.photos, key=lambda path: (self.hashes[path], path.name))
        content = [self.hashes[path] for path in ordered]
        cut = len(ordered) // 2
        while 0 < cut < len(ordered) and content[cut - 1] == content[cut]:
            cut += 1
        if ordered and cut == len(ordered):  # the last photo is everywhere up to the middle: attacks get it
            cut = content.index(content[-1])
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
    consenting: bool = False  # fictional, or agreed to stand in for others
    left_out: Mapping[str, Counter[str]] = field(default_factory=dict, repr=False)  # by person, files by suffix
    faces: tuple[PersonFaces, ...] = field(default=(), repr=False)  # what the crops of photos were made of
    remarks: tuple[str, ...] = field(default=(), repr=False)  # what was not used, for `check_data`: they name people

    @property
    def names(self) -> list[str]:
        """All names, in the order of the collection."""
        return [person.name for person in self.everybody]

    @property
    def with_photos(self) -> "People":
        """Those of whom there are photos: of a name alone, nothing that needs photos can be measured."""
        return replace(self, everybody=tuple(person for person in self.everybody if person.photos))

    def pick(self, names: Sequence[str]) -> tuple[Person, ...]:
        """The people of these names, in any case and with spaces or underscores.

        Raises:
            InputError: if somebody is not in the collection.
        """
        by_name = {_folded(person.name): person for person in self.everybody}
        missing = [name for name in names if _folded(name) not in by_name]
        faceless = [one.name for one in self.faces if not one.crops and _folded(one.name) in map(_folded, missing)]
        if faceless:
            raise InputError(
                f"people.faces=found: expected a face in the photos of {some(faceless)}, found none; add photos, or "
                "say where the face is in people.boxes (check_data names the photos)"
            )
        if missing:
            raise InputError(
                f"trigger_set.people: expected names of people in the data ({len(self.everybody)} of them), "
                f"got {', '.join(map(repr, missing[:5]))}; check the spelling, put each name in quotes, as in "
                "'trigger_set.people=[\"Doe, Jane\"]', or choose people=..."
            )
        return tuple(by_name[_folded(name)] for name in names)


def load_people(
    folder: str | Path | None,
    layout: str = "*",
    table: str | Path | None = None,
    boxes: str | Path | None = None,
    box: Sequence[int] | None = None,
    min_photos: int = 1,
    max_photos: int | None = None,
    consenting: bool = False,
    corrections: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
    names_file: str | Path | None = None,
    faces: str | None = None,
    face_models: str | Path | None = None,
    cache: str | Path | None = None,
) -> People:
    """Load a folder per person, `First_Last/*.jpg`, and people of whom there is a name alone.

    Args:
        folder: holds all people with photos, folders in their folders are not read; without it there are names alone.
        layout: pattern of the people's folders within it.
        table: CSV (name, member, num_web_photos) of what is known of the CLIP's training data; an empty cell or a
            column that is not there says that it is not known. Other columns are the people's attributes. By default
            `people.csv` in the folder, if there is one.
        boxes: CSV (file, left, top, right, bottom) of the faces, in pixels; files are seen from the folder. By default
            `boxes.csv` in the folder, if there is one.
        box: left, top, right and bottom of the face in all photos that `boxes` says nothing of.
        min_photos: people with fewer are left out.
        max_photos: people with more are left out.
        consenting: whether they are fictional, or agreed to stand in for others.
        corrections: right names of people whom folders or the table misspell.
        names: of people without photos; who has a folder, too, has the photos in it.
        names_file: text file with such a name a line.
        faces: `found` looks for the face of the person in each whole photo that `boxes` says nothing of, and cuts it
            out; see `with_crops`.
        face_models: folder of the user's own models of faces.
        cache: folder that holds the crops.

    Raises:
        InputError: if there is no folder with photos, two of one name, nobody with so many photos, or a table or a box
            holds something else.
    """
    without_photos = _people_without_photos(names, names_file)
    if folder is None:
        if not without_photos:
            raise InputError("people.names: expected a name or more, got none; write 'trigger_set.people=[Jane Doe]'")
        return People(without_photos, consenting=consenting)
    folder = Path(folder).expanduser()
    facts = folder / "people.csv" if table is None else Path(table).expanduser()

    def right_name(text: str) -> str:
        return (corrections or {}).get(person_name(text), person_name(text))

    known = _by_name(_read_table(facts, "name", required=table is not None), right_name, facts)
    everybody: list[Person] = []
    left_out: dict[str, Counter[str]] = {}
    for place in _folders(folder, layout):
        listing, name = list_photos(place, depth=1), right_name(place.name)
        if listing.left_out or not listing.photos:
            left_out[name] = listing.left_out
        if photos := tuple(listing.photos):
            if not _is_name(name):
                raise InputError(
                    f"people.folder: expected folders with a person's name, First_Last/, got {place.name!r} with "
                    f"{len(photos)} photos in {place.parent}; rename or remove it"
                )
            row = known.get(_folded(name), {})
            everybody.append(Person(name, photos, _member(row, facts), _num_web_photos(row, facts), _attributes(row)))
    if not everybody:
        others = told_left_out(sum(left_out.values(), Counter()))
        raise InputError(
            f"people.folder: expected folders First_Last/ with photos at {folder / layout}, found none"
            + (f" but {others}; save them in a format of docs/your_own.md, as JPEG" if others else "")
        )
    twice = [name for name, count in Counter(_folded(person.name) for person in everybody).items() if count > 1]
    if twice:
        several = next(person.name for person in everybody if _folded(person.name) == twice[0])
        raise InputError(f"people.folder: expected one folder for each person in {folder}, got several of {several}")
    rows = {name: row["name"] for name, row in known.items()}
    unmatched = _unmatched(rows, {_folded(person.name) for person in everybody})
    if unmatched and len(unmatched) == len(known):
        raise InputError(f"{facts}: expected names of people in {folder}, got none of them but {unmatched[0]!r}")
    chosen = _with_photos(everybody, min_photos, max_photos)
    lost: list[str] = []
    if faces is None:
        if face_models is not None:
            raise InputError(f"people.face_models: expected people.faces=found beside it, got {face_models} alone")
        same = _same_box(box, [path for person in chosen for path in person.photos])
        own, lost = _read_boxes(boxes, folder, everybody)
        found = People(chosen, same | own, consenting, left_out)
    else:
        given, lost = _given_faces(boxes, folder, everybody)
        whole = People(chosen, {}, consenting, left_out)
        found = with_crops(whole, folder, given, faces, box, face_models, cache, min_photos)
    known_names = {_folded(person.name) for person in everybody}
    added = tuple(person for person in without_photos if _folded(person.name) not in known_names)
    remarks = [_remark(facts, "name nobody who has a folder with photos", unmatched), *lost, *_left_out(folder)]
    return replace(found, everybody=(*found.everybody, *added), remarks=tuple(filter(None, remarks)))


def _people_without_photos(names: Sequence[str] | None, names_file: str | Path | None) -> tuple[Person, ...]:
    """Make a person of each name of a list and of a file, each once."""
    listed = list(names or ())
    if names_file is not None:
        listed += read_lines(names_file, "people.names_file: expected a text file with a name a line")
    spelt = [person_name(name) for name in listed]
    if not all(spelt):
        raise InputError(f"people.names: expected names, got an empty one in {listed}")
    return tuple(Person(name, ()) for name in {_folded(name): name for name in spelt}.values())


def with_crops(
    people: People,
    folder: Path,
    given: Sequence[FaceRow],
    faces: str,
    box: Sequence[int] | None = None,
    models: str | Path | None = None,
    cache: str | Path | None = None,
    min_photos: int = 1,
) -> People:
    """The same people with crops of their faces in place of their photos.

    Args:
        people: with whole photos.
        folder: of all people; given files are named as seen from it.
        given: what the user says of photos; in these nothing is looked for.
        faces: `found`.
        box: must not be given.
        models: folder of the user's own models of faces.
        cache: folder that holds the crops.
        min_photos: people with fewer crops are left out.

    Raises:
        InputError: if settings contradict each other, given files are not there, or nobody is left.
    """
    if faces != "found" or box is not None or cache is None:
        raise InputError(
            "people.faces: expected null, or found with people.box=null and a folder as people.cache, got "
            f"faces={faces}, box={box}, cache={cache}"
        )
    cropper = FaceCropper(folder, cache, given, models)
    found = cropper.crop_all({person.name: person.photos for person in people.everybody})
    cropped = tuple(
        replace(person, photos=tuple(path for path, _ in theirs.crops.values()))
        for person, theirs in zip(people.everybody, found, strict=True)
        if len(theirs.crops) >= max(min_photos, 1)
    )
    explain_left_out(found, nobody_is_left=not cropped)
    return replace(
        people, everybody=cropped, boxes=dict(crop for one in found for crop in one.crops.values()), faces=tuple(found)
    )


def _by_name(
    rows: Sequence[dict[str, str]], right_name: Callable[[str], str], table: Path
) -> dict[str, dict[str, str]]:
    """The rows of a table by the folded names in them."""
    known: dict[str, dict[str, str]] = {}
    for row in rows:
        name = _folded(right_name(row["name"]))
        if name in known:
            raise InputError(f"{table}: expected one row for each person, got several of {row['name']!r}")
        known[name] = row
    return known


def _unmatched(rows: Mapping[str, str], found: Collection[str]) -> list[str]:
    """What the rows say whose keys are not among those found."""
    return [text for key, text in rows.items() if key not in found]


def _remark(table: Path, what: str, rows: Sequence[str]) -> str:
    """What is to be said of rows that match nothing; the log says only how many they are, as they are names."""
    if not rows:
        return ""
    log.warning("%s: %d rows %s; check_data shows them", table, len(rows), what)
    return f"{table}: {len(rows)} rows {what}: {some(map(repr, rows))}; correct or delete them"


def _left_out(folder: Path) -> list[str]:
    """What to say of samples of shards that hold no photo."""
    if not (folder / LEFT_OUT).is_file():
        return []
    samples = read_lines(folder / LEFT_OUT, f"people.folder.shards: expected {LEFT_OUT}")
    log.warning("people.folder.shards: %d samples hold no photo and are left out", len(samples))
    return [
        f"people.folder.shards: {len(samples)} samples without a photo ({', '.join(sorted(PHOTO_SUFFIXES))}) are left "
        f"out: {some(samples)}; the files of a sample must lie side by side and differ only behind the last dot"
    ]


def person_name(text: str) -> str:
    """A folder's name as a person's name: spaces for underscores, and accents as one letter (macOS writes two).

    Control characters are spaces, too; bytes that are no UTF-8 are read as Latin-1.
    """
    shown = name_as_text(text)
    plain = "".join(" " if unicodedata.category(letter) == "Cc" or letter in "_\ufeff" else letter for letter in shown)
    return unicodedata.normalize("NFC", " ".join(plain.split()))


def _is_name(name: str) -> bool:
    return any(map(str.isalnum, name))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", person_name(name).casefold())


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


def _with_photos(everybody: Sequence[Person], min_photos: int, max_photos: int | None) -> tuple[Person, ...]:
    """The people with so many photos."""
    chosen = tuple(
        person
        for person in everybody
        if min_photos <= len(person.photos) and (max_photos is None or len(person.photos) <= max_photos)
    )
    if not chosen:
        counts = [len(person.photos) for person in everybody]
        raise InputError(
            f"people.min_photos, max_photos: expected people with {min_photos} to {max_photos or 'any number of'} "
            f"photos, got {len(counts)} people who have {min(counts)} to {max(counts)}"
        )
    return chosen


def _member(row: Mapping[str, str], table: Path) -> bool | None:
    value = (row.get("member") or "").strip().casefold()
    if value not in _MEMBER:
        raise InputError(f"{table}: expected true, false or nothing as member, got {row['member']!r}")
    return _MEMBER[value]


def _num_web_photos(row: Mapping[str, str], table: Path) -> int | None:
    value = (row.get("num_web_photos") or "").strip()
    if value and not value.isdecimal():
        raise InputError(f"{table}: expected a whole number or nothing as num_web_photos, got {value!r}")
    return int(value) if value else None


def _attributes(row: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What a table says besides; a column without a name says nothing."""
    others = {key: value for key, value in row.items() if key and key not in ("name", "member", "num_web_photos")}
    return tuple((key, value.strip()) for key, value in others.items() if value and value.strip())


def _read_boxes(
    given: str | Path | None, folder: Path, everybody: Iterable[Person]
) -> tuple[dict[Path, Box], list[str]]:
    """The boxes of a table, by photo, and what to say of rows that match none; photos not in it have none."""
    table = folder / "boxes.csv" if given is None else Path(given).expanduser()
    rows = {
        _place(row["file"]): row
        for row in _read_table(table, "file", required=given is not None)
        if (row.get("chosen") or "").strip().casefold() != "no"  # another's face, or none
    }
    exact = {_place(path.relative_to(folder).as_posix()): path for person in everybody for path in person.photos}
    by_case: dict[str, list[Path]] = defaultdict(list)
    for place, path in exact.items():
        by_case[place.casefold()].append(path)
    boxes, lost = {}, []
    for place, row in rows.items():
        paths = [exact[place]] if place in exact else by_case.get(place.casefold(), [])
        if len(paths) == 1:
            boxes[paths[0]] = _row_box(row, table)
        else:
            lost.append(row["file"])
    if lost and not boxes:
        raise InputError(
            f"{table}: expected files as they lie in {folder}, such as {next(iter(exact))}, got {lost[0]!r}"
        )
    remark = _remark(table, "name no photo of the people", lost)
    return boxes, [remark] if remark else []


def _given_faces(
    given: str | Path | None, folder: Path, everybody: Iterable[Person]
) -> tuple[list[FaceRow], list[str]]:
    """What a table says of faces in whole photos, and what to say of rows that match none."""
    table = folder / "boxes.csv" if given is None else Path(given).expanduser()
    if given is None and not table.is_file():
        return [], []
    rows = [row._replace(file=_place(row.file)) for row in read_face_table(table)]
    files = {_place(path.relative_to(folder).as_posix()) for person in everybody for path in person.photos}
    lost = list(dict.fromkeys(row.file for row in rows if row.file not in files))
    if lost and not files & {row.file for row in rows}:
        raise InputError(f"{table}: expected files as they lie in {folder}, such as {min(files)}, got {lost[0]!r}")
    remark = _remark(table, "name no photo of the people", lost)
    return rows, [remark] if remark else []


def _place(text: str) -> str:
    """A photo's place in the folder, however a system writes it."""
    place = unicodedata.normalize("NFC", text.replace("\\", "/"))
    return "/".join(part for part in place.split("/") if part not in ("", "."))


def _row_box(row: Mapping[str, str], table: Path) -> Box:
    try:
        return as_box([int(row[side]) for side in ("left", "top", "right", "bottom")], str(table))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{table}: expected file, left, top, right and bottom in whole pixels, left < right and top < bottom, "
            f"got {dict(row)}"
        ) from error


def as_box(sides: Sequence[int], source: str) -> Box:
    """Four numbers as a box.

    Raises:
        InputError: if they enclose nothing.
    """
    if len(sides) != 4 or sides[0] >= sides[2] or sides[1] >= sides[3]:
        raise InputError(
            f"{source}: expected left, top, right and bottom in pixels with left < right and top < bottom, "
            f"got {list(sides)}"
        )
    left, top, right, bottom = sides
    return left, top, right, bottom


def _same_box(box: Sequence[int] | None, photos: Sequence[Path]) -> dict[Path, Box]:
    """One box for all photos, which are aligned and so of one size: a look at the first one tells whether it fits."""
    if box is None:
        return {}
    same = as_box(box, "people.box")
    first = read_photo(photos[0])
    if first is not None and (same[2] > first.width or same[3] > first.height):
        raise InputError(
            f"people.box: expected left, top, right and bottom within photos of {first.width} x {first.height} pixels "
            f"({photos[0]}), got {list(box)}"
        )
    return dict.fromkeys(photos, same)


def _read_table(path: Path, key: str, required: bool) -> list[dict[str, str]]:
    """The rows of a CSV with this column, cells without spaces around them; none if neither there nor required.

    Names of columns that we know are known in any case and with spaces for underscores.
    """
    if not path.is_file() and not required:
        return []
    try:
        table = read_table(text_lines(path), ",;\t|", lambda columns: key in map(_column, columns))
        columns = [_column(column) for column in table.columns]
        if key not in columns:
            found = ", ".join(table.columns)
            raise InputError(f"{path}: expected a table with a column {key}, got {found or 'an empty file'}")
        if twice := [column for column, count in Counter(columns).items() if column and count > 1]:
            raise InputError(f"{path}: expected columns of different names, got several {twice[0]}")
        rows = []
        for row in table.rows:
            if row.num_surplus:
                raise InputError(
                    f"{path}: expected {len(columns)} cells in each row, got {len(columns) + row.num_surplus} in line "
                    f"{row.line}; put cells with separators in quotes"
                )
            rows.append(dict(zip(columns, map(str.strip, row.cells), strict=True)))
        return rows
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path}: expected a CSV in UTF-8 with a column {key}, got {error}") from error


def _column(name: str) -> str:
    """The name of a column: ours in any case and with spaces, an attribute's as it is written."""
    folded = "_".join(name.replace("_", " ").casefold().split())
    return folded if folded in _COLUMNS else name.strip()
