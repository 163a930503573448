"""Cut people's faces out of whole photos: upright, with head and shoulders, as photos of their own.

The crops stand in for the photos from then on, for defence and attack alike. They lie in the cache, in a folder per
person whose name is a keyed digest of the photos:

    faces/<digest>/faces.csv          what was found and chosen; it may be corrected
    faces/<digest>/<digest>/          the crops 0000.png, ... and boxes.csv, where the face is in each
    faces/<digest>/contact_sheet.png  all of it to look at, written by `check_data`
"""

import hashlib
import logging
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from rich.console import Console
from rich.progress import track

from backdoor_privacy.data.face_choice import MIN_SIMILARITY, choose_faces
from backdoor_privacy.data.face_tables import FaceRow, face_table, read_face_table
from backdoor_privacy.data.faces import Face, FaceFinder, FaceModels, turned, turned_box
from backdoor_privacy.data.formats import DECODING_ERRORS, decodable_formats, how_to_decode
from backdoor_privacy.data.photos import Box, content_of, overlaps, read_photo, told_unreadable, too_many
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.files import made_once, private_folder
from backdoor_privacy.system.keys import keyed_place

log = logging.getLogger(__name__)

MARGIN = 1.5  # side of a crop, in lengths of the face's longer side
MAX_SIDE = 1024  # of a crop, in pixels; larger ones are made smaller
ONLY, RECURRING, OTHER, UNCLEAR = "only face", "recurs", "other face", "unclear"
NO_FACE, UNREADABLE, NOT_LISTED = "no face", "does not decode", "not in the table"
_SAY_WHERE = "to use them, say where the face is in the table"
HINTS = {  # what to do about photos that are left out, by reason
    UNCLEAR: "several faces and none that recurs: write yes as chosen in the row of the right one in the table",
    NO_FACE: _SAY_WHERE,
    NOT_LISTED: _SAY_WHERE,
    UNREADABLE: "repair or delete these files",
}
_VERSION = f"1 {MARGIN} {MAX_SIDE}"  # of how faces are chosen and cut
_NO_FEATURES = np.zeros((0, 128), np.float32)


@dataclass(frozen=True)
class PersonFaces:
    """The faces found in the photos of one person, and the crops made of them."""

    name: str
    folder: Path  # in the cache
    photos: Mapping[str, Path]  # by file, as seen from the folder of all people
    rows: tuple[FaceRow, ...]  # one or more of each photo
    crops: Mapping[str, tuple[Path, Box]]  # of the photos with a chosen face: the crop, and the face in it

    @property
    def table(self) -> Path:
        """The CSV of the faces found, to correct; there is none where the user gave the faces of all photos."""
        return self.folder / "faces.csv"

    @property
    def left_out(self) -> dict[str, list[str]]:
        """The photos without a crop, by reason."""
        reasons: dict[str, list[str]] = {}
        for file in self.photos:
            if file not in self.crops:
                rows = [row for row in self.rows if row.file == file]
                given = next((row.reason for row in rows if row.reason in HINTS), NO_FACE)
                reasons.setdefault(UNREADABLE if any(row.chosen for row in rows) else given, []).append(file)
        return reasons

    @property
    def doubtful(self) -> list[str]:
        """The photos whose chosen face is so unlike those in the others that it may be somebody else's."""
        return [row.file for row in self.rows if row.chosen and (row.similarity or 1.0) < MIN_SIMILARITY]


class FaceCropper:
    """Cropper of people's photos; what it finds is kept on disk.

    Args:
        folder: of all people; files are named as seen from it.
        cache: folder that holds what is found and cut.
        given: faces that the user gave; no faces are looked for in these photos.
        models: folder of the user's own models; `None`: those of the wheel.
    """

    def __init__(
        self,
        folder: Path,
        cache: str | Path,
        given: Iterable[FaceRow] = (),
        models: str | Path | None = None,
    ) -> None:
        self._folder, self._cache = folder, Path(cache).expanduser() / "faces"
        self._models = FaceModels(models)
        self._given: dict[str, list[FaceRow]] = {}
        for row in given:
            self._given.setdefault(_same_name(row.file), []).append(row)

    @cached_property
    def _finder(self) -> FaceFinder:
        return FaceFinder(self._models)

    def crop_all(self, photos: Mapping[str, Sequence[Path]]) -> list[PersonFaces]:
        """Find the faces of each person, by name, with a progress bar.

        Raises:
            InputError: if the models are not there or a table is not what it should be.
        """
        private_folder(self._cache)  # photos of people lie there
        tracked = track(
            photos.items(),
            "Finding faces",
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        return [self._crop(name, paths) for name, paths in tracked]

    def _crop(self, name: str, paths: Sequence[Path]) -> PersonFaces:
        photos = {path.relative_to(self._folder).as_posix(): path for path in paths}
        is_given = all(_same_name(file) in self._given for file in photos)
        contents = [f"{file} {_content_digest(content_of(path))}" for file, path in photos.items()]
        made_of = [_VERSION, "given" if is_given else self._models.identity, *contents]
        folder = keyed_place(self._cache / _digest(made_of), self._cache.parent)
        known: dict[str, list[FaceRow]] = {}
        if not is_given:
            made_once(folder, lambda draft: _write_table(draft / "faces.csv", self._look(photos)), may_be_edited=True)
            for row in read_face_table(folder / "faces.csv"):
                known.setdefault(_same_name(row.file), []).append(row)
        rows = []
        for file in photos:
            missing = [FaceRow(file, None, chosen=False, reason=NOT_LISTED)]
            own = self._given.get(_same_name(file)) or known.get(_same_name(file)) or missing
            rows += [row._replace(file=file) for row in own]
        return PersonFaces(name, folder, photos, tuple(rows), self._crops(folder, photos, rows))

    def _crops(self, folder: Path, photos: Mapping[str, Path], rows: Sequence[FaceRow]) -> dict[str, tuple[Path, Box]]:
        """Return the crops of the chosen faces; make them where they are not there yet."""
        chosen = {f"{number:04}.png": row for number, row in enumerate(row for row in rows if row.chosen)}
        digest = _digest([repr((row.file, row.box, row.turn)) for row in chosen.values()])
        place = keyed_place(folder / digest, self._cache.parent)
        made_once(place, lambda draft: _write_crops(draft, photos, chosen))
        return {
            chosen[made.file].file: (place / made.file, made.box)
            for made in read_face_table(place / "boxes.csv")
            if made.box
        }

    def _look(self, photos: Mapping[str, Path]) -> list[FaceRow]:
        """Find the faces in the photos of one person, and which is theirs."""
        faces = [self._find(path) for path in photos.values()]
        features = [np.stack([face.features for face in own]) if own else _NO_FEATURES for own in faces]
        rows = []
        for file, own, choice in zip(photos, faces, choose_faces(features), strict=True):
            if not own:
                rows.append(FaceRow(file, None, chosen=False, reason=UNREADABLE if own is None else NO_FACE))
            for place, (face, similarity) in enumerate(zip(own or (), choice.similarities, strict=True)):
                chosen = place == choice.chosen
                reason = (ONLY if len(choice.similarities) == 1 else RECURRING) if chosen else OTHER
                reason = UNCLEAR if choice.chosen is None else reason
                rows.append(FaceRow(file, face.box, face.turn, face.score, similarity, chosen, reason))
        return rows

    def _find(self, path: Path) -> list[Face] | None:
        photo = read_photo(path)
        return None if photo is None else self._finder.find(photo, is_upright=_tells_orientation(path))


def explain_left_out(people: Sequence[PersonFaces], nobody_is_left: bool) -> None:
    """Warn of photos without a crop; only of their number, since a log must not name people.

    Raises:
        InputError: if nobody is left, or more than 1 % of the photos do not decode.
    """
    num_photos, reasons = sum(len(person.photos) for person in people), all_left_out(people)
    broken = reasons.get(UNREADABLE, [])
    if too_many(len(broken), num_photos):
        paths = [person.photos[file] for person in people for file in person.left_out.get(UNREADABLE, [])]
        raise InputError(told_unreadable(paths, num_photos, "people.folder", stops=True))
    texts = [f"{len(files)} ({reason}) {some(files)}" for reason, files in reasons.items()]
    if nobody_is_left:
        raise InputError(
            f"people.faces=found: expected photos with a face that is theirs, of "
            f"{some(person.name for person in people)}, got none in {num_photos}: "
            f"{'; '.join(texts)}; add photos, or say where the face is in a table with file, left, top, right and "
            "bottom as people.boxes"
        )
    if reasons:
        counts = ", ".join(f"{len(files)} ({reason})" for reason, files in reasons.items())
        log.warning("people.faces: of %d photos these are left out: %s; check_data names them", num_photos, counts)


def all_left_out(people: Iterable[PersonFaces]) -> dict[str, list[str]]:
    """Return the photos of all these people without a crop, by reason."""
    reasons: dict[str, list[str]] = {}
    for person in people:
        for reason, files in person.left_out.items():
            reasons.setdefault(reason, []).extend(files)
    return reasons


def crop_face(photo: Image.Image, box: Box, turn: int = 0) -> tuple[Image.Image, Box]:
    """Cut a square around a face, moved and made smaller to lie within the photo.

    Args:
        photo: as viewers show it.
        box: of the face in it, in pixels.
        turn: degrees counterclockwise that bring the face upright.

    Returns:
        The upright crop, and the face's box in it, in pixels.
    """
    box = turned_box(box, photo.size, turn)
    photo = turned(photo, turn)
    left, top, right, bottom = box
    side = min(round(MARGIN * max(right - left, bottom - top)), *photo.size)
    x = _within((left + right - side) // 2, photo.width - side)
    y = _within((top + bottom - side) // 2, photo.height - side)
    crop, scale = photo.crop((x, y, x + side, y + side)), min(1.0, MAX_SIDE / side)
    size = round(side * scale)
    if scale < 1:
        crop = crop.resize((size, size), Image.Resampling.LANCZOS)
    x0, y0, x1, y1 = (_within(round((at - start) * scale), size) for at, start in zip(box, (x, y, x, y), strict=True))
    return crop, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))


def _write_table(path: Path, rows: Sequence[FaceRow]) -> None:
    path.write_bytes(face_table(rows))


def _within(value: int, largest: int) -> int:
    return max(0, min(value, largest))


def _write_crops(draft: Path, photos: Mapping[str, Path], chosen: Mapping[str, FaceRow]) -> None:
    crops = []
    for name, row in chosen.items():
        photo = read_photo(photos[row.file])
        if photo is None or row.box is None:
            continue
        if not overlaps(row.box, *photo.size):
            raise InputError(
                f"people.boxes: expected the face in {row.file} within {photo.width} x {photo.height} pixels, got "
                f"left, top, right, bottom = {', '.join(map(str, row.box))}; correct the table"
            )
        crop, box = crop_face(photo, row.box, row.turn)
        crop.save(draft / name)
        crops.append(FaceRow(name, box))
    _write_table(draft / "boxes.csv", crops)


def _tells_orientation(path: Path) -> bool:
    """Return whether a photo says how the camera was held; such a photo is seldom stored sideways."""
    try:
        with Image.open(path, formats=decodable_formats()) as photo:
            return photo.getexif().get(ExifTags.Base.Orientation) in range(1, 9)
    except DECODING_ERRORS:
        return False


def _same_name(file: str) -> str:
    """Return a file's name with accents as one letter; macOS writes two."""
    return unicodedata.normalize("NFC", file)


def _content_digest(content: bytes) -> str:
    """Return a digest of a photo; it changes once a missing decoder of the photo's format is installed."""
    return f"{hashlib.sha256(content).hexdigest()} {how_to_decode(content[:12])}"


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
