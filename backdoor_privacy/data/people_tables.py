"""Read what tables say about people: who they are, and where their faces are."""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from backdoor_privacy.data.cells import plain_cell
from backdoor_privacy.data.face_tables import FaceRow, is_chosen, read_face_table
from backdoor_privacy.data.photos import Box, read_photo
from backdoor_privacy.data.tables import read_table
from backdoor_privacy.data.texts import text_lines
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.files import name_as_text

log = logging.getLogger(__name__)

_COLUMNS = {"name", "member", "num_web_photos", "file", "left", "top", "right", "bottom"}
_BYTE_ORDER_MARK = "\ufeff"  # which some programs leave within a text
_MEMBER = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": None}


def person_name(text: str) -> str:
    """Return a folder's name as a person's: spaces for underscores, accents as one letter (macOS writes two).

    Control characters are spaces, too; bytes that are no UTF-8 are read as Latin-1.
    """
    shown = name_as_text(text)
    plain = "".join(
        " " if unicodedata.category(letter) == "Cc" or letter in f"_{_BYTE_ORDER_MARK}" else letter for letter in shown
    )
    return unicodedata.normalize("NFC", " ".join(plain.split()))


def folded_name(name: str) -> str:
    """Return a name as it is compared: in lower case, with one form of accents and spaces, without invisible signs."""
    # The byte order mark is invisible, too, but stands for a space in names.
    seen = "".join(letter for letter in name if unicodedata.category(letter) != "Cf" or letter == _BYTE_ORDER_MARK)
    return unicodedata.normalize("NFC", person_name(seen).casefold())


def rows_by_name(
    rows: Sequence[dict[str, str]], right_name: Callable[[str], str], table: Path
) -> dict[str, dict[str, str]]:
    """Return the rows of a table by the folded names in them."""
    known: dict[str, dict[str, str]] = {}
    for row in rows:
        name = folded_name(right_name(row["name"]))
        if name in known:
            raise InputError(f"{table}: expected one row for each person, got several of {row['name']!r}; delete one")
        known[name] = row
    return known


def unmatched_in(rows: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Return the texts of the rows whose keys are not known."""
    return [text for key, text in rows.items() if key not in known]


def remark_on(table: Path, what: str, rows: Sequence[str]) -> str:
    """Return a remark on rows that match nothing; the log gets only their number, as they are names."""
    if not rows:
        return ""
    log.warning("%s: %d rows %s; check_data shows them", table, len(rows), what)
    return f"{table}: {len(rows)} rows {what}: {some(map(repr, rows))}; correct or delete them"


def member_of(row: Mapping[str, str], table: Path) -> bool | None:
    """Return whether somebody was in the training data, as a row says; `None` where it does not say."""
    value = (row.get("member") or "").strip().casefold()
    if value not in _MEMBER:
        raise InputError(f"{table}: expected true, false or nothing as member, got {row['member']!r}; correct it")
    return _MEMBER[value]


def num_web_photos_of(row: Mapping[str, str], table: Path) -> int | None:
    """Return the number of training photos in a row; `None` where it has none."""
    value = (row.get("num_web_photos") or "").strip()
    try:
        number = _whole(value) if value else None
        if number is not None and number < 0:
            raise ValueError
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{table}: expected a whole number or nothing as num_web_photos, got {value!r}; correct it"
        ) from error
    return number


def _whole(text: str) -> int:
    """Return a whole number, also one that a spreadsheet wrote as 5.0."""
    number = float(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


def attributes_of(row: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the other cells of a row, by column; empty cells and columns without a name are left out."""
    others = {key: value for key, value in row.items() if key and key not in ("name", "member", "num_web_photos")}
    return tuple((key, value.strip()) for key, value in others.items() if value and value.strip())


def read_boxes(given: str | Path | None, folder: Path, photos: Collection[Path]) -> tuple[dict[Path, Box], list[str]]:
    """Return the boxes of a table, by photo, and remarks on rows that match no photo."""
    table = folder / "boxes.csv" if given is None else Path(given).expanduser()
    rows = [
        (_place(row["file"]), row)
        for row in read_columns(table, "file", required=given is not None)
        if is_chosen(row.get("chosen") or "", table)  # other rows are faces of other people
    ]
    exact = {_place(path.relative_to(folder).as_posix()): path for path in photos}
    by_case: dict[str, list[Path]] = defaultdict(list)
    for place, path in exact.items():
        by_case[place.casefold()].append(path)
    boxes: dict[Path, Box] = {}
    lost = []
    for place, row in rows:
        paths = [exact[place]] if place in exact else by_case.get(place.casefold(), [])
        if len(paths) == 1:
            box = _row_box(row, table)
            if boxes.setdefault(paths[0], box) != box:
                raise InputError(f"{table}: expected one box for each photo, got several for {row['file']}; delete one")
        else:
            lost.append(row["file"])
    if lost and not boxes:
        raise InputError(
            f"{table}: expected files as they lie in {folder}, such as {next(iter(exact))}, got {lost[0]!r}"
        )
    remark = remark_on(table, "name no photo of the people", lost)
    return boxes, [remark] if remark else []


def given_faces(given: str | Path | None, folder: Path, photos: Collection[Path]) -> tuple[list[FaceRow], list[str]]:
    """Return the faces in whole photos that a table lists, and remarks on rows that match no photo."""
    table = folder / "boxes.csv" if given is None else Path(given).expanduser()
    if given is None and not table.is_file():
        return [], []
    rows = [row._replace(file=_place(row.file)) for row in read_face_table(table)]
    files = {_place(path.relative_to(folder).as_posix()) for path in photos}
    lost = list(dict.fromkeys(row.file for row in rows if row.file not in files))
    if lost and not files & {row.file for row in rows}:
        raise InputError(f"{table}: expected files as they lie in {folder}, such as {min(files)}, got {lost[0]!r}")
    remark = remark_on(table, "name no photo of the people", lost)
    return rows, [remark] if remark else []


def _place(text: str) -> str:
    """Return a photo's path in the folder in one form: every system writes it in its own."""
    place = unicodedata.normalize("NFC", text.replace("\\", "/"))
    return "/".join(part for part in place.split("/") if part not in ("", "."))


def _row_box(row: Mapping[str, str], table: Path) -> Box:
    try:
        return as_box([_whole(row[side]) for side in ("left", "top", "right", "bottom")], str(table))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{table}: expected file, left, top, right and bottom in whole pixels, left < right and top < bottom, "
            f"got {dict(row)}"
        ) from error


def as_box(sides: Sequence[int], source: str) -> Box:
    """Return four numbers as a box.

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


def same_box(box: Sequence[int] | None, photos: Sequence[Path]) -> dict[Path, Box]:
    """Return one box for all photos, which are aligned and of one size; only the first is checked."""
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


def read_columns(path: Path, key: str, required: bool) -> list[dict[str, str]]:
    """Read the rows of a CSV that must have this column; no rows if there is no file and none is required.

    Cells have no spaces around them. The package's own columns match in any case and with spaces for underscores.
    """
    if not path.is_file() and not required:
        return []
    try:
        table = read_table(text_lines(path), ",;\t|", lambda columns: key in map(_column, columns))
        columns = [_column(column) for column in table.columns]
        if key not in columns:
            names = ", ".join(table.columns)
            raise InputError(f"{path}: expected a table with a column {key}, got {names or 'an empty file'}")
        if twice := [column for column, count in Counter(columns).items() if column and count > 1]:
            raise InputError(f"{path}: expected columns of different names, got several {twice[0]}")
        rows = []
        for row in table.rows:
            if row.num_surplus:
                raise InputError(
                    f"{path}: expected {len(columns)} cells in each row, got {len(columns) + row.num_surplus} in line "
                    f"{row.line}; put cells with separators in quotes"
                )
            cells = [plain_cell(cell.strip()) for cell in row.cells]
            rows.append(dict(zip(columns, cells, strict=True)))
        return rows
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path}: expected a CSV in UTF-8 with a column {key}, got {error}") from error


def _column(name: str) -> str:
    """Return the name of a column: the package's own in its one form, an attribute's as it is written."""
    folded = "_".join(name.replace("_", " ").casefold().split())
    return folded if folded in _COLUMNS else name.strip()
