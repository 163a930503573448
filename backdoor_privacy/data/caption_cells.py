"""Read the captions in a cell of a table or a value of JSON: one, several in a list, or none."""

import ast
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from backdoor_privacy.data.texts import decoded, json_of
from backdoor_privacy.errors import InputError

KEY = "captions.file"
_LISTED = re.compile(r"\[\s*[bru]?['\"].*['\"]\s*,?\s*\]", re.DOTALL)
_BYTES = re.compile(r"b(['\"]).*\1", re.DOTALL)
_JOINED_BY_PYTHON = re.compile(r"['\"]\s+['\"]")  # two texts without a comma, as NumPy prints them


def cell_captions(cell: object, place: str) -> list[str]:
    """Return the captions in a cell, each on one line: one, several in a list, or none.

    Args:
        cell: text, bytes in UTF-8, a list of these, such a list as JSON or as Python writes it, or nothing (`None`,
            NaN).
        place: of the cell, for errors.

    Raises:
        InputError: if it is something else, as a number or an object.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return []
    if isinstance(cell, bytes):
        try:
            cell = decoded(cell)
        except UnicodeError as error:
            raise InputError(f"{KEY}: expected text in UTF-8, got other bytes in {place}; save it as UTF-8") from error
    if isinstance(cell, list):
        return [caption for part in cell for caption in cell_captions(part, place)]
    if not isinstance(cell, str):
        raise _no_text(cell, place)
    whole = cell.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # JSON can escape half a character
    text = " ".join(whole.removeprefix("\ufeff").split())
    written = _written(text, place)
    if written is not None:
        return cell_captions(written, place)
    return [text] if text else []


def captions_of_cells(numbered: Iterable[tuple[int, object]], unit: str, file: str | Path) -> Iterator[str]:
    """Yield the captions of numbered cells of a file; the unit, as `line`, is for errors."""
    for number, cell in numbered:
        yield from cell_captions(cell, f"{unit} {number} of {file}")


def _written(text: str, place: str) -> object:
    """Return what a text in JSON or Python syntax holds: a list, bytes or an object; `None` for plain text."""
    if text[:1] in ("[", "{"):
        try:
            return json_of(text)
        except ValueError:
            pass
    if _BYTES.fullmatch(text) or _LISTED.fullmatch(text):
        try:
            if not _JOINED_BY_PYTHON.search(text):
                return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
        raise InputError(
            f"{KEY}: expected a caption or a list of captions as JSON, got {text[:60]!r} in {place}; write it as JSON"
        )
    return None


def _no_text(cell: object, place: str) -> InputError:
    return InputError(
        f"{KEY}: expected text or a list of texts, got {type(cell).__name__} {str(cell)[:60]!r} in {place}; "
        "choose another column with captions.column, or write the captions as text"
    )
