"""Read tables of text: cells between commas, tabs or other separators, with or without quotes."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

_MAX_CELL_LINES = 100  # of a cell in quotes; without a closing quote within them, it is none


class Row(NamedTuple):
    """One row of a table."""

    line: int  # that it begins in, from 1
    cells: list[str]  # one for each column
    num_surplus: int  # cells beyond the columns, joined to the last one


class Table(NamedTuple):
    """A table of text."""

    columns: list[str]  # their names, without spaces around them
    rows: Iterator[Row]  # without blank ones


def read_table(
    lines: Iterable[str], separators: str, is_header: Callable[[list[str]], bool], prefers_lines: bool = False
) -> Table:
    """Read the table in these lines.

    A cell that begins with a quotation mark and is never closed is text with a quotation mark in it. Surplus cells are
    joined to the last one: they may be a caption with commas and without quotes.

    Args:
        lines: without their ends.
        separators: between cells; the first one that makes a header of the first line is taken, or else the first.
        is_header: whether these columns are the expected ones.
        prefers_lines: whether a line with the right number of cells is a row whatever its quotation marks say, as in
            files of tabs, which seldom have cells of several lines.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    _, first = next(numbered, (0, ""))
    headers = {separator: [cell.strip() for cell in _split(first, separator)[0]] for separator in separators}
    separator = next((sign for sign, columns in headers.items() if is_header(columns)), separators[0])
    columns = headers[separator] if first else []
    return Table(columns, _rows(numbered, separator, len(columns), prefers_lines))


def _rows(numbered: Iterator[tuple[int, str]], separator: str, width: int, prefers_lines: bool) -> Iterator[Row]:
    waiting: deque[tuple[int, str]] = deque()
    while waiting or (waiting := deque(islice(numbered, 1))):
        number, line = waiting.popleft()
        cells, state = _split(line, separator)
        if state == "open":
            waiting.extend(islice(numbered, _MAX_CELL_LINES - len(waiting)))
            longer, num_lines = _continued(line, [text for _, text in waiting], separator)
            taken = [line, *(text for _, text in islice(waiting, num_lines))]
            are_rows = all(len(_split(text, separator)[0]) == width for text in taken)
            if len(longer) == width and not (prefers_lines and are_rows):
                cells = longer
                for _ in range(num_lines):
                    waiting.popleft()
        while len(cells) > width and not cells[-1].strip():
            cells.pop()
        num_surplus = max(0, len(cells) - width)
        if num_surplus:
            cells[width - 1 :] = [separator.join(cells[width - 1 :])]
        if any(cell.strip() for cell in cells):
            yield Row(number, cells + [""] * (width - len(cells)), num_surplus)


def _continued(line: str, following: list[str], separator: str) -> tuple[list[str], int]:
    """Return the cells if the open one is closed in a following line, and the number of these lines; else none."""
    for num_lines, text in enumerate(following, 1):
        line = f"{line}\n{text}"
        cells, state = _split(line, separator)
        if state != "open":
            return (cells, num_lines) if state == "whole" else ([], 0)
    return [], 0


def _split(text: str, separator: str) -> tuple[list[str], Literal["whole", "open", "stray"]]:
    """Return the cells of a row, and whether quotes are open at its end or stray in a cell of several lines."""
    border = re.escape(separator)
    quoted_cell = re.compile(rf'[ ]*"((?:[^"]|"")*)"[ ]*(?={border}|\Z)')
    open_cell = re.compile(r'[ ]*"(?:[^"]|"")*\Z')
    cells, place = [], 0
    state: Literal["whole", "open", "stray"] = "whole"
    while True:
        if quoted := quoted_cell.match(text, place):
            cells.append(quoted[1].replace('""', '"'))
            end = quoted.end()
        else:
            end = text.find(separator, place)
            end = len(text) if end < 0 else end
            cells.append(text[place:end])
            if open_cell.match(text, place):
                state = "open"
            elif "\n" in cells[-1]:
                state = "stray"
        if end >= len(text):
            return cells, state
        place = end + len(separator)
