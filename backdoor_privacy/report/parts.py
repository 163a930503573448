"""The parts that pages and model cards consist of; the templates say how each kind is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

from matplotlib.figure import Figure

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Cell:
    """One number; `detail` stands below it in small."""

    main: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One measure, with a cell per column."""

    label: str
    note: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table of numbers."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    first: str = "Measure"  # what the rows are


@dataclass(frozen=True)
class Folded:
    """A long table that a reader unfolds."""

    kind: ClassVar[str] = "folded"
    summary: str
    table: Table


@dataclass(frozen=True)
class Everybody:
    """A table of single people that a reader can search."""

    kind: ClassVar[str] = "everybody"
    rows: Sequence[Mapping[str, str | int]]  # by column


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Note:
    """A paragraph in small."""

    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    kind: ClassVar[str] = "points"
    points: Sequence[str]


@dataclass(frozen=True)
class Terms:
    """Facts, each under its term."""

    kind: ClassVar[str] = "terms"
    terms: Mapping[str, str]


@dataclass(frozen=True)
class Facts:
    """A table of two columns."""

    kind: ClassVar[str] = "facts"
    caption: str
    columns: tuple[str, str]
    rows: Mapping[str, str]


@dataclass(frozen=True)
class Drawing:
    """A figure; it is drawn when it is saved."""

    kind: ClassVar[str] = "drawing"
    name: str  # of its files in `figures/`
    caption: str
    note: str
    description: str  # the figure in words, for those who do not see it
    draw: Callable[[], Figure]
    is_private: bool = False  # whether it shows single people, or exact numbers of a few


@dataclass(frozen=True)
class Photo:
    """A picture of the run folder."""

    kind: ClassVar[str] = "photo"
    caption: str
    note: str
    path: Path
    alternative: str  # the picture in words


Part: TypeAlias = Table | Folded | Everybody | Text | Note | Points | Terms | Facts | Drawing | Photo


@dataclass(frozen=True)
class Section:
    """A part of a page with a title of its own."""

    name: str  # in the page's address
    title: str
    parts: Sequence[Part]
    gallery: Sequence[Part] = ()  # at the end of it, side by side where there is room

    @property
    def drawings(self) -> list[Drawing]:
        """Return the figures in it."""
        return [part for part in (*self.parts, *self.gallery) if isinstance(part, Drawing)]
