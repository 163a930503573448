"""Write and read cells of a CSV so that no spreadsheet computes what is text.

A spreadsheet takes a cell that begins with one of a few signs for a formula, which can send away what else is in the
table. Such a text gets an apostrophe in front, as OWASP advises for CSV injection, and loses it when it is read again.
A text that begins with apostrophes before such a sign gets one, too, so that reading is exact; all others, and numbers,
stay as they are.
"""

import csv
import re
from pathlib import Path
from typing import TypeVar

import pandas as pd

Cell = TypeVar("Cell")
# Behind apostrophes and spaces: the signs that begin a formula, also as full-width signs, which some programs accept.
_FORMULA = re.compile(r"'* *[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def safe_cell(value: Cell) -> Cell | str:
    """Return a cell as it is written: a text that a spreadsheet would compute has an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def plain_cell(value: Cell) -> Cell | str:
    """Return the cell that `safe_cell` was given; cells of other programs stay as they are."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and _FORMULA.match(value) else value


def csv_text(table: pd.DataFrame, float_format: str | None = None) -> str:
    """Return a table as CSV, without its index."""
    safe = table.apply(lambda column: column.map(safe_cell) if _is_text(column) else column)
    texts = (value for name in safe if _is_text(safe[name]) for value in safe[name] if isinstance(value, str))
    quoting = csv.QUOTE_ALL if any("\r" in text for text in texts) else csv.QUOTE_MINIMAL  # else it ends a line
    return safe.to_csv(index=False, float_format=float_format, lineterminator="\n", quoting=quoting)


def read_csv(path: Path, **options: object) -> pd.DataFrame:
    """Read a CSV that `csv_text`, or an earlier version, has written.

    Args:
        path: of the file.
        options: of `pandas.read_csv`.
    """
    table = pd.read_csv(path, **options)
    return table.apply(lambda column: column.map(plain_cell) if _is_text(column) else column)


def _is_text(column: pd.Series) -> bool:
    return not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))
