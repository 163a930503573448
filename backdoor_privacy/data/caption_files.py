"""Read captions from the files and tables that people have, each caption as text or not at all."""

import ast
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path, PurePath
from typing import Any

from backdoor_privacy.data.shards import find_shards, open_source, read_shards
from backdoor_privacy.data.tables import read_table
from backdoor_privacy.data.texts import decoded, json_of, read_lines, text_lines
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.reading import GIB, open_ordinary

log = logging.getLogger(__name__)

_MAX_JSON = GIB  # bytes; it is read as a whole
_KEY = "captions.file"
_SEPARATORS = {".csv": ",;\t|", ".tsv": "\t"}
_NAMES_OF_PHOTOS = {"file", "file_name", "filename", "image", "image_id", "image_name", "img", "path", "photo", "url"}
_NAMES_OF_CAPTIONS = ("caption", "captions", "comment", "sentence", "text")
_PHOTO_IN_FRONT = re.compile(r"[^\t,|]+?\.(?:jpe?g|png|webp|bmp|gif|tiff?)(?:#\d+)?\s*[\t,|]\s*", re.IGNORECASE)
_ID_IN_FRONT = re.compile(r"\S+\t\s*\S")
_LISTED = re.compile(r"\[\s*[bru]?['\"].*['\"]\s*,?\s*\]", re.DOTALL)
_BYTES = re.compile(r"b(['\"]).*\1", re.DOTALL)
_JOINED_BY_PYTHON = re.compile(r"['\"]\s+['\"]")  # two texts without a comma, as NumPy prints them


def cell_captions(cell: Any, place: str) -> list[str]:
    """The captions in a cell, each on one line: one, several in a list, or none.

    Args:
        cell: text, bytes in UTF-8, a list of these, such a list as JSON or as Python writes it, or nothing (`None`,
            NaN).
        place: of the cell, for errors.

    Raises:
        InputError: if it is something else, as a number or a structure.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return []
    if isinstance(cell, bytes):
        try:
            cell = decoded(cell)
        except UnicodeError as error:
            raise InputError(f"{_KEY}: expected text in UTF-8, got other bytes in {place}") from error
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


def _written(text: str, place: str) -> Any:
    """What a text writes down as JSON or as Python: a list, bytes or a structure; `None` if it is a mere text."""
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
        raise InputError(f"{_KEY}: expected a caption or a list of captions as JSON, got {text[:60]!r} in {place}")
    return None


def _no_text(cell: object, place: str) -> InputError:
    return InputError(
        f"{_KEY}: expected text or a list of texts, got {type(cell).__name__} {str(cell)[:60]!r} in {place}; "
        "choose another column with captions.column, or write the captions as text"
    )


def read_caption_file(file: str | Path, column: str | None) -> Iterable[str]:
    """The captions of a file, by its suffix; see `load_captions`.

    Raises:
        InputError: if the file is not what its suffix says, or its suffix says nothing.
    """
    suffix = PurePath(str(file)).suffix.lower()
    if suffix not in _READERS:
        raise InputError(
            f"{_KEY}: expected .txt, .csv, .tsv, .parquet, .json, .jsonl, .ndjson, .token or WebDataset shards "
            f"(*.tar), nothing compressed, got {file}; unpack or convert it"
        )
    return _READERS[suffix](file, column)


def read_caption_shards(source: str | Path, column: str | None) -> Iterator[str]:
    """The captions of WebDataset shards: `txt`, or a key of `json`.

    Raises:
        InputError: if there are no shards, one is broken, or a sample's text is none.
    """
    bare: list[str] = []
    for sample in read_shards(find_shards(source, _KEY), _KEY):
        captions = sample_captions(sample, column)
        if not captions:
            bare.append(f"{sample['__key__']} of {sample['__url__']}")
        yield from captions
    if bare:
        log.warning("%s: %d samples hold no caption (txt, or json) and are left out: %s", _KEY, len(bare), some(bare))


def sample_captions(sample: dict[str, Any], column: str | None = None) -> list[str]:
    """The captions of a shard's sample: its whole `txt` as one, or a key of its `json`.

    Raises:
        InputError: if there is no such key, or no text.
    """
    place = f"{sample['__key__']} of {sample['__url__']}"
    if "txt" in sample and column is None:
        return cell_captions(sample["txt"], place)
    if "json" not in sample:
        return []
    name = column or "caption"
    try:
        cell = json_of(decoded(sample["json"]))[name]  # img2dataset writes null for none
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"captions.column: expected JSON with the key {name}, got {place}") from error
    return cell_captions(cell, f"key {name} of {place}")


def _of_text(file: str | Path, column: str | None) -> Iterable[str]:
    """A caption a line, or what else is found under this suffix: Flickr8k's two formats and JSON Lines."""
    lines = read_lines(file, f"{_KEY}: expected a text file with a caption a line")
    header = _photo_table_header(lines)
    if header is not None:
        return _of_table(lines, ",\t|", column or header, file)
    if lines and isinstance(_json(lines[0]), dict):
        return _of_json_lines(file, column)
    in_front = [line for line in lines if _PHOTO_IN_FRONT.match(line)]
    if 2 * len(in_front) > len(lines):
        return _without_photos(lines, file)
    if lines and all(_ID_IN_FRONT.match(line) for line in lines):
        raise InputError(
            f"{_KEY}: expected a caption a line, got {lines[0][:60]!r} in {file}, with a tab behind its first word, as "
            "in a table; save it as .tsv with the names of its columns in the first line"
        )
    return _cells(enumerate(lines, 1), "line", file)


def _photo_table_header(lines: Sequence[str]) -> str | None:
    """The column of captions, where the first line is the header of a table of photos and not a caption."""
    for separator in ",\t|":
        names = [name.strip() for name in lines[0].split(separator)] if len(lines) > 1 else [""]
        found = [name for name in names[1:] if name.casefold() in _NAMES_OF_CAPTIONS]
        if found and names[0].casefold() in _NAMES_OF_PHOTOS and _is_row(lines[1], separator, len(names)):
            return found[0]
    return None


def _is_row(line: str, separator: str, width: int) -> bool:
    """Return whether a photo and, behind it, further cells are in a line."""
    cells = line.split(separator)
    is_photo = " " not in cells[0].strip() or _PHOTO_IN_FRONT.match(line) is not None
    return len(cells) >= width and is_photo


def _of_token(file: str | Path, column: str | None) -> Iterable[str]:
    """Flickr's `name.jpg#0<TAB>caption`."""
    return _without_photos(read_lines(file, f"{_KEY}: expected a text file with name.jpg#0, a tab and a caption"), file)


def _without_photos(lines: Iterable[str], file: str | Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        photo = _PHOTO_IN_FRONT.match(line)
        if photo is None:
            raise InputError(
                f"{_KEY}: expected the name of a photo, a tab and a caption in each line of {file}, got {line[:60]!r} "
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
                f"{_KEY}: expected {len(table.columns)} cells in each row of {file}, got "
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
            f"{_KEY}: expected pyarrow to read {file}, found none; pip install 'backdoor_privacy[parquet]'"
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
    return InputError(f"{_KEY}: expected a table ({suffix}, UTF-8), got {file}: {reason}")


def _check_column(column: str | None, columns: Sequence[str], file: str | Path) -> str:
    if column is None or column not in columns:
        found = ", ".join(columns[:20])
        raise InputError(f"captions.column: expected one of {found} (columns of {file}), got {column}")
    if columns.count(column) > 1:
        raise InputError(f"captions.column: expected columns of different names in {file}, got several {column}")
    return column


def _of_json_lines(file: str | Path, column: str | None) -> Iterator[str]:
    lines = read_lines(file, f"{_KEY}: expected JSON Lines, each a caption, a list or an object", keep_blank=True)
    for number, line in enumerate(lines, 1):
        if line:
            try:
                content = json_of(line)
            except ValueError as error:
                raise InputError(
                    f"{_KEY}: expected JSON in each line, got {line[:60]!r} in line {number} of {file}"
                ) from error
            yield from _of_entry(content, column, f"line {number} of {file}")


def _of_entry(content: Any, column: str | None, place: str) -> list[str]:
    """The captions of an object, by its key, or those that stand there without an object."""
    if not isinstance(content, dict):
        return cell_captions(content, place)
    name = column or "caption"
    if name not in content:
        raise InputError(
            f"captions.column: expected one of {', '.join(map(str, [*content][:20]))} (keys of {place}), got {name}"
        )
    return cell_captions(content[name], f"key {name} of {place}")


def _of_json(file: str | Path, column: str | None) -> Iterable[str]:
    try:
        content = read_json(file)
    except (OSError, HTTPException) as error:
        raise InputError(f"{_KEY}: expected {_JSON}, got {file}, which cannot be read") from error
    except ValueError:
        lines = read_lines(file, f"{_KEY}: expected {_JSON}")
        if len(lines) > 1 and isinstance(_json(lines[0]), dict | str) and isinstance(_json(lines[1]), dict | str):
            return _of_json_lines(file, column)
        raise _no_json(file) from None
    if isinstance(content, list) and content:
        return _entries(content, column, file)
    if isinstance(content, dict) and (column or "caption") in content:
        return _of_entry(content, column, str(file))
    if isinstance(content, dict) and "annotations" in content:
        return _of_annotations(content, file)
    if isinstance(content, dict) and "images" in content:
        return _of_sentences(content, file)
    raise _no_json(file)


def _entries(content: list[Any], column: str | None, file: str | Path) -> Iterator[str]:
    for number, entry in enumerate(content, 1):
        yield from _of_entry(entry, column, f"entry {number} of {file}")


def _of_annotations(content: dict[str, Any], file: str | Path) -> list[str]:
    """COCO's."""
    try:
        cells = [entry["caption"] for entry in content["annotations"]]
        if not all(isinstance(cell, str | list) for cell in cells):
            raise TypeError
    except (LookupError, TypeError) as error:
        raise _no_json(file) from error
    return list(_cells(enumerate(cells, 1), "annotation", file))


def _of_sentences(content: dict[str, Any], file: str | Path) -> list[str]:
    """Karpathy's splits of COCO and of Flickr."""
    try:
        cells = [sentence["raw"] for image in content["images"] for sentence in image["sentences"]]
    except (LookupError, TypeError) as error:
        raise _no_json(file) from error
    return list(_cells(enumerate(cells, 1), "sentence", file))


def _cells(numbered: Iterable[tuple[int, Any]], unit: str, file: str | Path) -> Iterator[str]:
    for number, cell in numbered:
        yield from cell_captions(cell, f"{unit} {number} of {file}")


def _no_json(file: str | Path) -> InputError:
    return InputError(f"{_KEY}: expected {_JSON}, got something else in {file}; captions_val2017.json is such a file")


def read_json(file: str | Path) -> Any:
    """What is in a JSON file or comes from a URL.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON.
    """
    with open_source(str(file)) as stream:
        content = stream.read(_MAX_JSON + 1)
    if len(content) > _MAX_JSON:
        raise ValueError("JSON that is too large")
    return json_of(decoded(content))


def _json(text: str) -> Any:
    try:
        return json_of(text)
    except ValueError:
        return None


_JSON = "COCO's JSON of captions (annotations, each with a caption), Karpathy's, or a list of texts or of objects"
_READERS: dict[str, Callable[[str | Path, str | None], Iterable[str]]] = {
    "": _of_text,
    ".txt": _of_text,
    ".token": _of_token,
    ".csv": _of_csv,
    ".tsv": _of_csv,
    ".parquet": _of_parquet,
    ".json": _of_json,
    ".jsonl": _of_json_lines,
    ".ndjson": _of_json_lines,
}
