"""Load people with their photos: those who can be attacked, and removed."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from backdoor_privacy.data.face_crops import FaceCropper, PersonFaces, explain_left_out
from backdoor_privacy.data.face_tables import FaceRow
from backdoor_privacy.data.people_tables import (
    attributes_of,
    folded_name,
    given_faces,
    member_of,
    num_web_photos_of,
    person_name,
    read_boxes,
    read_columns,
    remark_on,
    rows_by_name,
    same_box,
    unmatched_in,
)
from backdoor_privacy.data.person_folders import PersonFolder, list_people, remarks_on_shards
from backdoor_privacy.data.photos import Box, photo_sha256
from backdoor_privacy.data.texts import read_lines
from backdoor_privacy.errors import InputError, some

log = logging.getLogger(__name__)


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
        return {path: photo_sha256(path) for path in self.photos}

    @cached_property
    def _halves(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Photos in the order of their content hash, cut in two; exact duplicates stay together."""
        ordered = sorted(self.photos, key=lambda path: (self.hashes[path], path.name))
        content = [self.hashes[path] for path in ordered]
        cut = len(ordered) // 2
        while 0 < cut < len(ordered) and content[cut - 1] == content[cut]:
            cut += 1
        if ordered and cut == len(ordered):  # all after the middle are copies of one photo: attacks get them
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
        """The people with photos: without any, nothing that needs photos can be measured."""
        return replace(self, everybody=tuple(person for person in self.everybody if person.photos))

    def pick(self, names: Sequence[str]) -> tuple[Person, ...]:
        """Return the people of these names, in any case and with spaces or underscores.

        Raises:
            InputError: if somebody is not in the collection.
        """
        by_name = {folded_name(person.name): person for person in self.everybody}
        missing = [name for name in names if folded_name(name) not in by_name]
        faceless = [
            person.name
            for person in self.faces
            if not person.crops and folded_name(person.name) in map(folded_name, missing)
        ]
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
        return tuple(by_name[folded_name(name)] for name in names)


def load_people(
    folder: str | Path | None = None,
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
    """Load people from a folder per person, `First_Last/*.jpg`, and people without photos by their names.

    Args:
        folder: holds a folder of photos per person, without folders in it; `None`: nobody has photos.
        layout: pattern of the people's folders within it.
        table: CSV (name, member, num_web_photos) of what is known of the CLIP's training data; an empty cell or a
            missing column means unknown. Other columns are the people's attributes. By default `people.csv` in the
            folder, if there is one.
        boxes: CSV (file, left, top, right, bottom) of the faces, in pixels; files are seen from the folder. By default
            `boxes.csv` in the folder, if there is one.
        box: left, top, right and bottom of the face, in pixels, in all photos that are not in `boxes`.
        min_photos: people with fewer are left out.
        max_photos: people with more are left out.
        consenting: whether they are fictional, or agreed to stand in for others.
        corrections: right names by the ones that folders or the table misspell.
        names: of people without photos; somebody who has a folder, too, has the photos in it.
        names_file: text file of such names, one a line.
        faces: `found` looks for the person's face in each whole photo that is not in `boxes`, and cuts it out; see
            `with_crops`.
        face_models: folder of the user's own models of faces.
        cache: folder that holds the crops.

    Raises:
        InputError: if no folder has photos, two have one name, nobody has the right number of photos, or a table or a
            box is wrong.
    """
    without_photos = _people_without_photos(names, names_file, is_needed=folder is None)
    if folder is None:
        return People(without_photos, consenting=consenting)
    if face_models is not None and faces is None:
        raise InputError(f"people.face_models: expected people.faces=found beside it, got {face_models} alone")
    folder = Path(folder).expanduser()
    facts = folder / "people.csv" if table is None else Path(table).expanduser()
    right_name = partial(_right_name, corrections or {})
    known = rows_by_name(read_columns(facts, "name", required=table is not None), right_name, facts)
    folders = list_people(folder, layout, right_name)
    everybody = [_person(own, known, facts) for own in folders if own.photos]
    unmatched = _unmatched_remark(known, everybody, facts, folder)
    left_out = {own.name: own.left_out for own in folders if own.left_out or not own.photos}
    people = People(_with_photos(everybody, min_photos, max_photos), {}, consenting, left_out)
    photos = [path for person in everybody for path in person.photos]
    if faces is not None:
        given, lost = given_faces(boxes, folder, photos)
        people = with_crops(people, folder, given, faces, box, face_models, cache, min_photos)
    else:
        own, lost = read_boxes(boxes, folder, photos)
        same = same_box(box, [path for person in people.everybody for path in person.photos])
        people = replace(people, boxes=same | own)
    remarks = tuple(filter(None, [unmatched, *lost, *remarks_on_shards(folder)]))
    return replace(people, everybody=people.everybody + _others(without_photos, everybody), remarks=remarks)


def _right_name(corrections: Mapping[str, str], text: str) -> str:
    return corrections.get(person_name(text), person_name(text))


def _unmatched_remark(
    known: Mapping[str, Mapping[str, str]], everybody: Sequence[Person], facts: Path, folder: Path
) -> str:
    """Return a remark on the names of a table that belong to nobody; empty if all belong to somebody.

    Raises:
        InputError: if none does.
    """
    unmatched = unmatched_in({name: row["name"] for name, row in known.items()}, _folded_names(everybody))
    if unmatched and len(unmatched) == len(known):
        raise InputError(f"{facts}: expected names of people in {folder}, got only others, as {unmatched[0]!r}")
    return remark_on(facts, "name nobody who has a folder with photos", unmatched)


def _person(folder: PersonFolder, known: Mapping[str, Mapping[str, str]], facts: Path) -> Person:
    """Return the person of a folder, with what the table says about them."""
    row = known.get(folded_name(folder.name), {})
    member, num_web_photos = member_of(row, facts), num_web_photos_of(row, facts)
    return Person(folder.name, folder.photos, member, num_web_photos, attributes_of(row))


def _others(people: Sequence[Person], others: Sequence[Person]) -> tuple[Person, ...]:
    """Return the people who have no namesake among the others."""
    names = _folded_names(others)
    return tuple(person for person in people if folded_name(person.name) not in names)


def _folded_names(people: Sequence[Person]) -> set[str]:
    return {folded_name(person.name) for person in people}


def _people_without_photos(
    names: Sequence[str] | None, names_file: str | Path | None, *, is_needed: bool
) -> tuple[Person, ...]:
    """Return a person for each name of a list and of a file, each name once."""
    listed = list(names or ())
    if names_file is not None:
        listed += read_lines(names_file, "people.names_file: expected a text file with a name a line")
    spelt = [person_name(name) for name in listed]
    if is_needed and not spelt:
        raise InputError("people.names: expected a name or more, got none; write 'trigger_set.people=[Jane Doe]'")
    if not all(spelt):
        raise InputError(f"people.names: expected names, got an empty one in {listed}")
    return tuple(Person(name, ()) for name in {folded_name(name): name for name in spelt}.values())


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
    """Return the people with crops of their faces in place of their photos.

    Args:
        people: with whole photos.
        folder: of all people; given files are named as seen from it.
        given: faces that the user gave; no faces are looked for in these photos.
        faces: `found`.
        box: must not be given.
        models: folder of the user's own models of faces.
        cache: folder that holds the crops.
        min_photos: people with fewer crops are left out.

    Raises:
        InputError: if settings contradict each other, files are missing, or nobody is left.
    """
    if faces != "found" or box is not None or cache is None:
        raise InputError(
            "people.faces: expected null, or found with people.box=null and a folder as people.cache, got "
            f"faces={faces}, box={box}, cache={cache}"
        )
    cropper = FaceCropper(folder, cache, given, models)
    faces_of = cropper.crop_all({person.name: person.photos for person in people.everybody})
    cropped = tuple(
        replace(person, photos=tuple(path for path, _ in own.crops.values()))
        for person, own in zip(people.everybody, faces_of, strict=True)
        if len(own.crops) >= max(min_photos, 1)
    )
    explain_left_out(faces_of, nobody_is_left=not cropped)
    boxes = dict(crop for own in faces_of for crop in own.crops.values())
    return replace(people, everybody=cropped, boxes=boxes, faces=tuple(faces_of))


def _with_photos(everybody: Sequence[Person], min_photos: int, max_photos: int | None) -> tuple[Person, ...]:
    """Return the people whose number of photos lies in this range."""
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
