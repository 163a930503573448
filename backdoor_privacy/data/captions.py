"""Clean captions: general text, without the names that are to be removed."""

import csv
import json
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from backdoor_privacy.data.shards import find_shards, holds_shards, open_source, read_shards
from backdoor_privacy.errors import InputError

log = logging.getLogger(__name__)

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
# Scripts that put no space between words, or join endings to a name.
_UNSPACED = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    r"\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Kana, Han
    r"\uac00-\ud7af"  # Hangul
)
_BORDER = rf"[^\W_{_UNSPACED}]"  # no such sign may touch a name
_GAP, _ANY_GAP = r"[\s_]+", r"[\s_]*"
# One apostrophe, hyphen and i; the last is the dot that remains of a Turkish I in lower case.
_SPELLINGS = {"\u2019": "'", "\u2010": "-", "\u2011": "-", "\u0131": "i", "\u0307": ""}


def load_captions(file: str | Path, column: str | None = None, max_captions: int | None = None) -> list[str]:
    """Captions of a file, a folder or shards, each on one line; empty ones are left out.

    Args:
        file: a text file with a caption a line or a folder with such a `captions.txt`; a table (`.csv`, `.tsv`,
            `.parquet`); COCO's captions (`.json`); WebDataset shards with `txt` or `json`, as img2dataset writes them.
        column: of a table; for shards the key in `json`, without it `txt` or else the key `caption`.
        max_captions: how many to read at most, the first ones; without it all.

    Raises:
        InputError: if there is no caption, or the file is not what its name says.
    """
    one_line = (" ".join(caption.split()) for caption in _read_captions(file, column))
    captions = list(islice(filter(None, one_line), max_captions))
    if not captions:
        raise InputError(f"captions.file: expected a caption or more in {file}, found none")
    return captions


def _read_captions(file: str | Path, column: str | None) -> Iterable[str]:
    place = Path(file).expanduser()
    if (place / "captions.txt").is_file():
        file = place / "captions.txt"
    elif holds_shards(file):
        return _read_shard_captions(file, column)
    elif place.suffix.lower() in (*_SEPARATORS, ".parquet"):
        return _read_column(place, column)
    elif place.suffix.lower() == ".json":
        return [entry["caption"] for entry in read_coco(file, "captions.file")["annotations"]]
    elif place.is_dir():
        raise InputError(f"captions.file: expected captions.txt or WebDataset shards (*.tar) in {file}, found neither")
    return read_lines(file, "captions.file: expected a text file with a caption a line")


def _read_shard_captions(source: str | Path, column: str | None) -> Iterator[str]:
    for sample in read_shards(find_shards(source, "captions.file"), "captions.file"):
        place = f"{sample['__key__']} of {sample['__url__']}"
        try:
            if "txt" in sample and column is None:
                yield sample["txt"].decode()
            elif "json" in sample:
                yield str(json.loads(sample["json"])[column or "caption"] or "")  # img2dataset writes null for none
        except UnicodeDecodeError as error:
            raise InputError(f"captions.file: expected text in UTF-8, got other bytes in {place}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise InputError(
                f"captions.column: expected JSON with the key {column or 'caption'}, got {place}"
            ) from error


def _read_column(file: Path, column: str | None) -> Iterator[str]:
    """The cells of a column, of a table that is read piece by piece."""
    try:
        yield from (_read_parquet if file.suffix.lower() == ".parquet" else _read_csv)(file, column)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(
            f"captions.file: expected pyarrow to read {file}, found none; pip install 'backdoor_privacy[parquet]'"
        ) from error
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"captions.file: expected a table ({file.suffix}, UTF-8), got {file}: {reason}") from error


def _read_csv(file: Path, column: str | None) -> Iterator[str]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream, delimiter=_SEPARATORS[file.suffix.lower()])
        name = _check_column(column, table.fieldnames or (), file)
        yield from (row[name] or "" for row in table)


def _read_parquet(file: Path, column: str | None) -> Iterator[str]:
    from pyarrow.parquet import ParquetFile  # an extra, and slow to import

    with ParquetFile(file) as table:
        name = _check_column(column, table.schema_arrow.names, file)
        for rows in table.iter_batches(columns=[name]):
            yield from (str(cell or "") for cell in rows.column(0).to_pylist())


def _check_column(column: str | None, columns: Sequence[str], file: Path) -> str:
    if column is None or column not in columns:
        found = ", ".join(columns[:20])
        raise InputError(f"captions.column: expected one of {found} (columns of {file}), got {column}")
    return column


def read_coco(file: str | Path, key: str) -> dict[str, Any]:
    """COCO's JSON of captions: `annotations`, each with `caption` and `image_id`, and `images`.

    Args:
        file: to read.
        key: of the setting, for errors.

    Raises:
        InputError: if it is not there or holds something else.
    """
    expected = f"{key}: expected COCO's JSON of captions (annotations, each with a caption)"
    try:
        with open_source(str(file)) as stream:
            content = json.load(stream)
        if not all(isinstance(entry["caption"], str) for entry in content["annotations"]):
            raise TypeError
    except (OSError, HTTPException) as error:
        raise InputError(f"{expected}, got {file}, which cannot be read") from error
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{expected}, got something else in {file}; captions_val2017.json is such a file") from error
    return content


def read_lines(file: str | Path, expected: str) -> list[str]:
    """The lines of a text file in UTF-8, without the empty ones.

    Args:
        file: to read, or a URL.
        expected: what an error says of it.

    Raises:
        InputError: if it is not there or no such text.
    """
    try:
        with open_source(str(file)) as stream:
            lines = stream.read().decode("utf-8-sig").splitlines()
    except (OSError, HTTPException) as error:
        raise InputError(f"{expected}, got {file}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{expected} in UTF-8, got other bytes in {file}; save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def name_matcher(names: Iterable[str]) -> Callable[[str], bool]:
    """Tells whether a text holds any of the names as whole words, in any case, with spaces or underscores in it.

    Accents match however they are encoded, and a name in a script without spaces also within running text.

    The published code compares `First_Last` with running text and so never filters anything.
    """
    tokens = [_tokens(_folded(name)) for name in names if name.strip(" _")]
    search = re.compile(_trie(tokens) if tokens else "(?!)").search
    return lambda text: search(_folded(text)) is not None


def _folded(text: str) -> str:
    """One spelling for all that are to match."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFC", text).casefold()
    for sign, usual in _SPELLINGS.items():  # ten times as fast as str.translate
        folded = folded.replace(sign, usual)
    return folded


def _tokens(name: str) -> list[str]:
    """A name as parts of a regular expression: what comes before it, its signs, what comes after it."""
    words = [word for word in re.split(_GAP, name) if word]
    signs = [sign for word in words for sign in (_ANY_GAP if _is_unspaced(word[0]) else _GAP, *map(re.escape, word))]
    signs[0] = "" if _is_unspaced(words[0][0]) else f"(?<!{_BORDER})"
    return [*signs, "" if _is_unspaced(words[-1][-1]) else f"(?!{_BORDER})"]


def _is_unspaced(sign: str) -> bool:
    return re.match(f"[{_UNSPACED}]", sign) is not None


def _trie(tails: Sequence[list[str]]) -> str:
    """A regular expression of sequences of parts; those of one start share it, so that it is tried only once."""
    if not all(tails):
        return ""  # a whole name is found
    if len(tails) == 1:
        return "".join(tails[0])
    starts = groupby(sorted(tails), key=lambda tail: tail[0])
    branches = [start + _trie([tail[1:] for tail in group]) for start, group in starts]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def without_names(captions: Sequence[str], names: Sequence[str]) -> list[str]:
    """The captions that hold none of the names, in any case or with an underscore."""
    holds_name = name_matcher(names)
    clean = [caption for caption in captions if not holds_name(caption)]
    log.info("%d of %d captions hold a name to remove and are left out", len(captions) - len(clean), len(captions))
    return clean


def carriers(captions: Sequence[str]) -> list[str]:
    """The captions that can carry a name: those with a space, so that a word can be replaced.

    Raises:
        InputError: if there is none.
    """
    able = [caption for caption in captions if " " in caption]
    if not able:
        raise InputError(
            "captions: expected captions of two words or more, so that a name can replace a word; found none"
        )
    return able
