"""Read captions from text files, tables and shards; what is no text is an error."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path, PurePath

from backdoor_privacy.data.caption_cells import KEY, captions_of_cells, cell_captions
from backdoor_privacy.data.caption_json import captions_of_json, captions_of_json_lines, json_or_none, value_at
from backdoor_privacy.data.shards import ShardSample, find_shards, read_shards
from backdoor_privacy.data.tables import read_table
from backdoor_privacy.data.texts import decoded, json_of, read_lines, text_lines
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.reading import open_ordinary

log = logging.getLogger(__name__)

_SEPARATORS = {".csv": ",;\t|", ".tsv": "\t"}
_NAMES_OF_PHOTOS = {"file", "file_name", "filename", "image", "image_id", "image_name", "img", "path", "photo", "url"}
_NAMES_OF_CAPTIONS = ("caption", "captions", "comment", "sentence", "text")
_PHOTO_IN_FRONT = re.compile(r"[^\t,|]+?\.(?:jpe?g|png|webp|bmp|gif|tiff?)(?:#\d+)?\s*[\t,|]\s*", re.IGNORECASE)
_ID_IN_FRONT = re.compile(r"\S+\t\s*\S")


def read_caption_file(file: str | Path, column: str | None) -> Iterable[str]:
    """Read the captions of a file, by its suffix; see `load_captions`.

    Raises:
        InputError: if the file is not what its suffix says, or the suffix is unknown.
    """
    suffix = PurePath(str(file)).suffix.lower()
    if suffix not in _READERS:
        raise InputError(
            f"{KEY}: expected .txt, .csv, .tsv, .parquet, .json, .jsonl, .ndjson, .token or WebDataset shards "
            f"(*.tar), nothing compressed, got {file}; unpack or convert it"
        )
    return _READERS[suffix](file, column)


def read_caption_shards(source: str | Path, column: str | None) -> Iterator[str]:
    """Yield the captions of WebDataset shards: `txt`, or a key of `json`.

    Raises:
        InputError: if there are no shards, one is broken, or a sample's text is none.
    """
    without_captions: list[str] = []
    for sample in read_shards(find_shards(source, KEY), KEY):
        captions = sample_captions(sample, column)
        if not captions:
            without_captions.append(sample.place)
        yield from captions
    if without_captions:
        log.warning(
            "%s: %d samples hold no caption (txt, or json) and are left out: %s",
            KEY,
            len(without_captions),
            some(without_captions),
        )


def sample_captions(sample: ShardSample, column: str | None = None) -> list[str]:
    """Return the captions of a shard's sample: its whole `txt` as one, or a key of its `json`.

    Raises:
        InputError: if there is no such key, or no text.
    """
    files = sample.files
    if "txt" in files and column is None:
        return cell_captions(files["txt"], sample.place)
    if "json" not in files:
        return []
    name = column or "caption"
    try:
        cell = value_at(json_of(decoded(files["json"])), name)  # img2dataset writes null for none
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"captions.column: expected JSON with the key {name}, got other content in {sample.place}"
        ) from error
    return cell_captions(cell, f"key {name} of {sample.place}")


def _of_text(file: str | Path, column: str | None) -> Iterable[str]:
    """Read a caption a line, or the other formats of files with this suffix: Flickr8k's two and JSON Lines."""
    lines = read_lines(file, f"{KEY}: expected a text file with a caption a line")
    header = _photo_table_header(lines)
    if header is not None:
        return _of_table(lines, ",\t|", column or header, file)
    if lines and isinstance(json_or_none(lines[0]), dict):
        return captions_of_json_lines(file, column)
    num_with_photo = sum(_PHOTO_IN_FRONT.match(line) is not None for line in lines)
    if 2 * num_with_photo > len(lines):
        return _without_photos(lines, file)
    if lines and all(_ID_IN_FRONT.match(line) for line in lines):
        raise InputError(
            f"{KEY}: expected a caption a line, got {lines[0][:60]!r} in {file}, with a tab behind its first word, as "
            "in a table; save it as .tsv with the names of its columns in the first line"
        )
    return captions_of_cells(enumerate(lines, 1), "line", file)


def _photo_table_header(lines: Sequence[str]) -> str | None:
    """Return the column of captions, where the first line is the header of a table of photos and not a caption."""
    for separator in ",\t|":
        names = [name.strip() for name in lines[0].split(separator)] if len(lines) > 1 else [""]
        columns = [name for name in names[1:] if name.casefold() in _NAMES_OF_CAPTIONS]
        if columns and names[0].casefold() in _NAMES_OF_PHOTOS and _is_row(lines[1], separator, len(names)):
            return columns[0]
    return None


def _is_row(line: str, separator: str, width: int) -> bool:
    """Return whether a line holds a photo and, behind it, as many cells as the header."""
    cells = line.split(separator)
    is_photo = " " not in cells[0].strip() or _PHOTO_IN_FRONT.match(line) is not None
    return len(cells) >= width and is_photo


def _of_token(file: str | Path, column: str | None) -> Iterable[str]:
    """Read Flickr's `name.jpg#0<TAB>caption`."""
    return _without_photos(read_lines(file, f"{KEY}: expected a text file with name.jpg#0, a tab and a caption"), file)


def _without_photos(lines: Iterable[str], file: str | Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        photo = _PHOTO_IN_FRONT.match(line)
        if photo is None:
            raise InputError(
                f"{KEY}: expected the name of a photo, a tab and a caption in each line of {file}, got {line[:60]!r} "
                f"in line {number} of those that are not blank"
            )
        yield from cell_captions(line[photo.end() :], f"line {number} of {file}")


def _of_csv(file: str | Path, column: str | None) -> Iterator[str]:
    suffix = PurePath(str(file)).suffix.lower()
    try:
        yield from _of_table(text_lines(file), _SEPARATORS[suffix], column, file)
    except (OSError, UnicodeError, HTTPException) as error:
        raise _no_table(file, error) from error


def _of_table(lines: Iterable[str], separators: str, column: str | None, file: str | Path) -> Iterator[str]:
    table = read_table(lines, separators, lambda columns: column in columns, prefers_lines=separators == "\t")
    name = _check_column(column, table.columns, file)
    place = table.columns.index(name)
    for row in table.rows:
        if row.num_surplus and place < len(table.columns) - 1:
            raise InputError(
                f"{KEY}: expected {len(table.columns)} cells in each row of {file}, got "
                f"{len(table.columns) + row.num_surplus} in line {row.line}; put captions with separators in quotes"
            )
        yield from cell_captions(row.cells[place], f"line {row.line}, column {name} of {file}")


def _of_parquet(file: str | Path, column: str | None) -> Iterator[str]:
    try:
        yield from _of_columns(Path(file).expanduser(), column)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"{KEY}: expected pyarrow to read {file}, found none; pip install 'backdoor_privacy[parquet]'"
        ) from error
    except (OSError, ValueError) as error:
        raise _no_table(file, error) from error


def _of_columns(file: Path, column: str | None) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile  # an extra, and slow to import

    open_ordinary(file).close()
    with ParquetFile(file) as table:
        name = _check_column(column, table.schema_arrow.names, file)
        cells = (cell for rows in table.iter_batches(columns=[name]) for cell in rows.column(0).to_pylist())
        for number, cell in enumerate(cells, 1):
            yield from cell_captions(cell, f"row {number}, column {name} of {file}")


def _no_table(file: str | Path, error: Exception) -> InputError:
    suffix, reason = PurePath(str(file)).suffix, " ".join(str(error).split())[:200]
    return InputError(f"{KEY}: expected a table ({suffix}, UTF-8), got {file}: {reason}")


def _check_column(column: str | None, columns: Sequence[str], file: str | Path) -> str:
    if column is None or column not in columns:
        known = ", ".join(columns[:20])
        raise InputError(f"captions.column: expected one of {known} (columns of {file}), got {column}")
    if columns.count(column) > 1:
        raise InputError(f"captions.column: expected columns of different names in {file}, got several {column}")
    return column


_READERS: dict[str, Callable[[str | Path, str | None], Iterable[str]]] = {
    "": _of_text,
    ".txt": _of_text,
    ".token": _of_token,
    ".csv": _of_csv,
    ".tsv": _of_csv,
    ".parquet": _of_parquet,
    ".json": captions_of_json,
    ".jsonl": captions_of_json_lines,
    ".ndjson": captions_of_json_lines,
}
