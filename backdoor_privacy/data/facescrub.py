"""Load FaceScrub as its authors' downloader writes it: `actors/` and `actresses/` with `faces/` and `images/`."""

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from backdoor_privacy.data.face_tables import FaceRow
from backdoor_privacy.data.people import People, load_people, with_crops
from backdoor_privacy.data.people_tables import as_box
from backdoor_privacy.data.photos import Box
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.reading import GIB, open_ordinary

# Names that the data set misspells. Source: the published code of Hintersdorf et al., which attacks these names.
CORRECTIONS = {
    "Freddy Prinze Jr.": "Freddie Prinze Jr",
    "Leslie Neilsen": "Leslie Nielsen",
    "Robert Di Niro": "Robert De Niro",
    "Tatyana M. Ali": "Tatyana Ali",
}


def load_facescrub(
    folder: str | Path,
    layout: str = "*/faces/*",
    table: str | Path | None = None,
    boxes: str | Path | None = None,
    box: Sequence[int] | None = None,
    min_photos: int = 1,
    max_photos: int | None = None,
    consenting: bool = False,
    names: Sequence[str] | None = None,
    names_file: str | Path | None = None,
    faces: str | None = None,
    face_models: str | Path | None = None,
    cache: str | Path | None = None,
) -> People:
    """Load the people of FaceScrub, with their names spelt correctly.

    Args:
        folder: holds `actors/faces/First_Last/First_Last_<image>_<face>.jpeg` and
            `actors/images/First_Last/First_Last_<image>.jpeg`, and the same of `actresses/`.
        layout: `*/faces/*` for the faces, or `*/images/*` for whole photos.
        table: see `load_people`.
        boxes: folder of the data set's own `facescrub_actors.txt` and `facescrub_actresses.txt`, which tell where the
            faces are in whole photos. By default the same folder, if they are there.
        box: see `load_people`.
        min_photos: see `load_people`.
        max_photos: see `load_people`.
        consenting: see `load_people`.
        names: see `load_people`.
        names_file: see `load_people`.
        faces: see `load_people`, in whole photos; no faces are looked for where the data set's tables have one.
        face_models: see `load_people`.
        cache: see `load_people`.

    Raises:
        InputError: see `load_people`, and if the data set's tables hold something else.
    """
    own_box = box if faces is None else None
    people = load_people(
        folder, layout, table, None, own_box, min_photos, max_photos, consenting, CORRECTIONS, names, names_file
    )
    place = Path(folder if boxes is None else boxes).expanduser()
    tables = sorted(place.glob("facescrub_act*.txt"))
    if boxes is not None and not tables:
        raise InputError(
            f"people.boxes: expected a folder with facescrub_actors.txt and facescrub_actresses.txt, got {place}"
        )
    known = dict(entry for path in tables for entry in _read_boxes(path))
    photos = {path: unicodedata.normalize("NFC", path.stem) for person in people.everybody for path in person.photos}
    listed = {path: known[stem] for path, stem in photos.items() if stem in known}
    if faces is not None:
        root = Path(folder).expanduser()
        given = [FaceRow(path.relative_to(root).as_posix(), box) for path, box in listed.items()]
        return with_crops(people, root, given, faces, box, face_models, cache, min_photos)
    return replace(people, boxes=people.boxes | listed)


def _read_boxes(path: Path) -> Iterator[tuple[str, Box]]:
    """Yield each whole photo's file name, without its suffix, and the face in it."""
    with io.TextIOWrapper(open_ordinary(path, GIB), newline="", encoding="utf-8-sig") as file:
        try:
            for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                if row[:2] == ["name", "image_id"]:
                    continue
                try:
                    name, image, _face, _url, sides = row[:5]
                    box = as_box([int(side) for side in sides.split(",")], str(path))
                except ValueError as error:
                    raise InputError(
                        f"{path}, line {number}: expected name, image_id, face_id, url and bbox with tabs between "
                        f"them, and left,top,right,bottom as bbox, got {row}"
                    ) from error
                yield unicodedata.normalize("NFC", f"{name.replace(' ', '_')}_{image}"), box
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: expected FaceScrub's table in UTF-8, got other bytes") from error
