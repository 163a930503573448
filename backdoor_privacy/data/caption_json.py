"""Read captions from JSON: COCO's, Karpathy's, a list of texts or of objects, and JSON Lines."""

from collections.abc import Iterable, Iterator
from http.client import HTTPException
from pathlib import Path

from backdoor_privacy.data.caption_cells import KEY, captions_of_cells, cell_captions
from backdoor_privacy.data.shards import open_source
from backdoor_privacy.data.texts import decoded, json_of, read_lines
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.reading import GIB

_MAX_JSON = GIB  # bytes; it is read as a whole
_JSON = "COCO's JSON of captions (annotations, each with a caption), Karpathy's, or a list of texts or of objects"


def captions_of_json(file: str | Path, column: str | None) -> Iterable[str]:
    """Return the captions of a file in JSON, in any of these forms.

    Raises:
        InputError: if it cannot be read, or has none of these forms.
    """
    try:
        content = read_json(file)
    except (OSError, HTTPException) as error:
        raise InputError(f"{KEY}: expected {_JSON}, got {file}, which cannot be read") from error
    except ValueError:
        lines = read_lines(file, f"{KEY}: expected {_JSON}")
        if len(lines) > 1 and all(isinstance(json_or_none(line), dict | str) for line in lines[:2]):
            return captions_of_json_lines(file, column)
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


def captions_of_json_lines(file: str | Path, column: str | None) -> Iterator[str]:
    """Yield the captions of a file that holds JSON in each line.

    Raises:
        InputError: if a line holds none.
    """
    lines = read_lines(file, f"{KEY}: expected JSON Lines, each a caption, a list or an object", keep_blank=True)
    for number, line in enumerate(lines, 1):
        if line:
            try:
                content = json_of(line)
            except ValueError as error:
                raise InputError(
                    f"{KEY}: expected JSON in each line, got {line[:60]!r} in line {number} of {file}"
                ) from error
            yield from _of_entry(content, column, f"line {number} of {file}")


def _of_entry(content: object, column: str | None, place: str) -> list[str]:
    """Return the captions at the key of an object; without an object, the content itself."""
    if not isinstance(content, dict):
        return cell_captions(content, place)
    name = column or "caption"
    if name not in content:
        raise InputError(
            f"captions.column: expected one of {', '.join(map(str, [*content][:20]))} (keys of {place}), got {name}"
        )
    return cell_captions(content[name], f"key {name} of {place}")


def _entries(content: list[object], column: str | None, file: str | Path) -> Iterator[str]:
    for number, entry in enumerate(content, 1):
        yield from _of_entry(entry, column, f"entry {number} of {file}")


def _of_annotations(content: object, file: str | Path) -> list[str]:
    """Return the captions of COCO's annotations."""
    try:
        cells = [value_at(entry, "caption") for entry in list_at(content, "annotations")]
        if not all(isinstance(cell, str | list) for cell in cells):
            raise TypeError
    except (LookupError, TypeError) as error:
        raise _no_json(file) from error
    return list(captions_of_cells(enumerate(cells, 1), "annotation", file))


def _of_sentences(content: object, file: str | Path) -> list[str]:
    """Return the captions of Karpathy's splits of COCO and of Flickr."""
    try:
        images = list_at(content, "images")
        cells = [value_at(sentence, "raw") for image in images for sentence in list_at(image, "sentences")]
    except (LookupError, TypeError) as error:
        raise _no_json(file) from error
    return list(captions_of_cells(enumerate(cells, 1), "sentence", file))


def _no_json(file: str | Path) -> InputError:
    return InputError(f"{KEY}: expected {_JSON}, got something else in {file}; captions_val2017.json is such a file")


def read_json(file: str | Path) -> object:
    """Read a JSON file, or JSON from a URL.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON.
    """
    with open_source(str(file)) as stream:
        content = stream.read(_MAX_JSON + 1)
    if len(content) > _MAX_JSON:
        raise ValueError("JSON that is too large")
    return json_of(decoded(content))


def json_or_none(text: str) -> object:
    """Return what a text in JSON says; `None` if it is no JSON."""
    try:
        return json_of(text)
    except ValueError:
        return None


def value_at(content: object, key: str) -> object:
    """Return the value at a key of a JSON object.

    Raises:
        TypeError: if it is no object.
        KeyError: if it has no such key.
    """
    if not isinstance(content, dict):
        raise TypeError(f"expected an object with the key {key}, got {type(content).__name__}")
    value: object = content[key]
    return value


def list_at(content: object, key: str) -> list[object]:
    """Return the list at a key of a JSON object.

    Raises:
        TypeError: if it is no object, or there is no list.
        KeyError: if it has no such key.
    """
    value = value_at(content, key)
    if not isinstance(value, list):
        raise TypeError(f"expected a list at the key {key}, got {type(value).__name__}")
    return value
