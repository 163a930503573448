"""Write and read the table of the faces in photos, and which of them was chosen."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from backdoor_privacy.data.cells import plain_cell, safe_cell
from backdoor_privacy.data.photos import Box
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.reading import MIB, read_ordinary

_SIDES = ("left", "top", "right", "bottom")
_COLUMNS = ("file", *_SIDES, "turn", "score", "similarity", "chosen", "reason")
_YES, _NO = ("yes", "true", "1", ""), ("no", "false", "0")
_TURNS = (0, 90, 180, 270)


class FaceRow(NamedTuple):
    """One face in a photo; without a box, a photo that has none."""

    file: str  # as seen from the folder of all people
    box: Box | None  # in the photo as viewers show it, in pixels
    turn: int = 0  # degrees counterclockwise that bring the face upright
    score: float | None = None  # of the detector, 0 to 1
    similarity: float | None = None  # cosine to its best match in every other photo of the person, on average
    chosen: bool = True
    reason: str = ""  # why it was chosen or not


def face_table(rows: Iterable[FaceRow]) -> bytes:
    """Return the rows as a CSV in UTF-8; file names in another encoding keep their bytes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        numbers = ["" if number is None else f"{number:.3f}" for number in (row.score, row.similarity)]
        sides = row.box or ("",) * 4
        texts = map(safe_cell, ("yes" if row.chosen else "no", row.reason))
        writer.writerow([safe_cell(row.file), *sides, row.turn, *numbers, *texts])
    return text.getvalue().encode(errors="surrogateescape")


def read_face_table(path: Path) -> list[FaceRow]:
    """Read the rows of such a table; where it has only file, left, top, right and bottom, all faces are chosen.

    A row without a box says that the photo is to be left out.

    Raises:
        InputError: if it is no such table, or two faces of a photo are chosen.
    """
    try:
        text = read_ordinary(path, 256 * MIB).removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
        separator = max(",;\t", key=text.partition("\n")[0].count)  # spreadsheets of many countries write semicolons
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
        columns = [(name or "").strip().lower() for name in table.fieldnames or ()]
        if not {"file", *_SIDES} <= set(columns):
            raise InputError(f"{path}: expected columns file, {', '.join(_SIDES)}, got {', '.join(columns) or 'none'}")
        table.fieldnames = columns
        rows = [_row(cells, path, table.line_num) for cells in table]
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV with file, {', '.join(_SIDES)}, got {error}") from error
    seen: set[str] = set()
    for row in rows:
        if row.chosen and row.file in seen:
            raise InputError(f"{path}: expected one chosen face in a photo, got several in {row.file}; choose one")
        if row.chosen:
            seen.add(row.file)
    return rows


def is_chosen(text: str, table: Path) -> bool:
    """Return whether a cell of the column `chosen` says yes; an empty cell does.

    Raises:
        InputError: if it says neither yes nor no.
    """
    folded = text.strip().casefold()
    if folded not in (*_YES, *_NO):
        raise InputError(f"{table}: expected yes, no or nothing as chosen, got {text!r}; correct it")
    return folded in _YES


def _row(cells: Mapping[str, str | None], path: Path, line: int) -> FaceRow:
    values = {name: plain_cell((cells.get(name) or "").strip()) for name in _COLUMNS}
    sides = [values[side] for side in _SIDES]
    try:
        box = None
        if any(sides):
            left, top, right, bottom = map(int, sides)
            box = left, top, right, bottom
        turn = int(values["turn"] or 0) % 360
        score, similarity = (float(values[name]) if values[name] else None for name in ("score", "similarity"))
        is_box = box is None or (box[0] < box[2] and box[1] < box[3])
        if not values["file"] or not is_box or turn not in _TURNS:
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"{path}, line {line}: expected a file, left < right and top < bottom in whole pixels or nothing, 0, 90, "
            f"180 or 270 as turn, got {', '.join(values.values())}"
        ) from error
    chosen = is_chosen(values["chosen"], path)
    return FaceRow(values["file"], box, turn, score, similarity, box is not None and chosen, values["reason"])
