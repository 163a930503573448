"""Load clean captions: general text, without the names that are to be removed."""

import logging
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from http.client import HTTPException
from itertools import groupby, islice
from pathlib import Path

from backdoor_privacy.data.caption_files import read_caption_file, read_caption_shards
from backdoor_privacy.data.caption_json import list_at, read_json, value_at
from backdoor_privacy.data.shards import holds_shards
from backdoor_privacy.errors import InputError

log = logging.getLogger(__name__)

_NO_CAPTION = re.compile(
    r"[-+]?[\d.,]+(?:e[-+]?\d+)?|https?://\S+|\S+\.(?:jpe?g|png|webp|bmp|gif|tiff?)", re.IGNORECASE
)
# Scripts that put no space between words, or join endings to a name.
_UNSPACED = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    r"\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Kana, Han
    r"\uac00-\ud7af"  # Hangul
)
_BORDER = rf"[^\W_{_UNSPACED}]"  # a sign that may not touch a name
_GAP, _ANY_GAP = r"[\s_]+", r"[\s_]*"
# One form of the apostrophe, the hyphen and the i; the last is the dot that a Turkish I leaves in lower case.
_SPELLINGS = {"\u2019": "'", "\u2010": "-", "\u2011": "-", "\u0131": "i", "\u0307": ""}


def load_captions(file: str | Path, column: str | None = None, max_captions: int | None = None) -> list[str]:
    """Load captions of a file, a folder or shards, each on one line; empty ones are left out.

    Args:
        file: a text file with a caption a line or a folder with such a `captions.txt`; a table (`.csv`, `.tsv`,
            `.parquet`); `.jsonl`; `.json` of COCO, of Karpathy, or a list; Flickr's `.token` or `captions.txt`, which
            name a photo before each caption; WebDataset shards with `txt` or `json`, as img2dataset writes them.
            A list in a cell is several captions.
        column: of a table or key of JSON; for shards the key in `json`, without it `txt` or else the key `caption`.
        max_captions: how many to read at most, the first ones; without it all.

    Raises:
        InputError: if there is no caption, the file is not what its suffix says, or a cell holds no text.
    """
    captions = list(islice(_read_captions(file, column), max_captions))
    if not captions:
        raise InputError(f"captions.file: expected a caption or more in {file}, found none")
    odd = list(filter(_NO_CAPTION.fullmatch, captions))
    if 2 * len(odd) > len(captions):
        raise InputError(
            f"captions.file: expected captions in {file}, got {len(odd)} of {len(captions)} that are only numbers, "
            f"addresses or names of files, as {odd[0][:60]!r}; choose another column with captions.column"
        )
    return captions


def _read_captions(file: str | Path, column: str | None) -> Iterable[str]:
    place = Path(file).expanduser()
    if (place / "captions.txt").is_file():
        return read_caption_file(place / "captions.txt", column)
    if holds_shards(file):
        return read_caption_shards(file, column)
    if place.is_dir():
        raise InputError(f"captions.file: expected captions.txt or WebDataset shards (*.tar) in {file}, found neither")
    return read_caption_file(file, column)


def read_coco(file: str | Path, key: str) -> object:
    """Read COCO's JSON of captions: `annotations`, each with `caption` and `image_id`, and `images`.

    Args:
        file: to read.
        key: of the setting, for errors.

    Raises:
        InputError: if it is not there or holds something else.
    """
    expected = f"{key}: expected COCO's JSON of captions (annotations, each with a caption)"
    try:
        content = read_json(file)
        if not all(isinstance(value_at(entry, "caption"), str) for entry in list_at(content, "annotations")):
            raise TypeError
    except (OSError, HTTPException) as error:
        raise InputError(f"{expected}, got {file}, which cannot be read") from error
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{expected}, got something else in {file}; captions_val2017.json is such a file") from error
    return content


def name_matcher(names: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a text holds any of the names as whole words.

    Names match in any case, with spaces or underscores in them, and however their accents are encoded; a name in a
    script without spaces also matches within running text.

    The published code compares `First_Last` with running text and so never filters anything.
    """
    tokens = [_tokens(_folded(name)) for name in names if name.strip(" _")]
    search = re.compile(_trie(tokens) if tokens else "(?!)").search
    return lambda text: search(_folded(text)) is not None


def _folded(text: str) -> str:
    """Return a text in lower case, with one spelling for signs that are to match."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFC", text).casefold()
    for sign, usual in _SPELLINGS.items():  # ten times as fast as str.translate
        folded = folded.replace(sign, usual)
    return folded


def _tokens(name: str) -> list[str]:
    """Return a name as parts of a regular expression: what comes before it, its signs, what comes after it."""
    words = [word for word in re.split(_GAP, name) if word]
    signs = [sign for word in words for sign in (_ANY_GAP if _is_unspaced(word[0]) else _GAP, *map(re.escape, word))]
    signs[0] = "" if _is_unspaced(words[0][0]) else f"(?<!{_BORDER})"
    return [*signs, "" if _is_unspaced(words[-1][-1]) else f"(?!{_BORDER})"]


def _is_unspaced(sign: str) -> bool:
    return re.match(f"[{_UNSPACED}]", sign) is not None


def _trie(tails: Sequence[list[str]]) -> str:
    """Return a regular expression of sequences of parts; those that begin alike share the beginning, for speed."""
    if not all(tails):
        return ""  # a whole name is found
    if len(tails) == 1:
        return "".join(tails[0])
    starts = groupby(sorted(tails), key=lambda tail: tail[0])
    branches = [start + _trie([tail[1:] for tail in group]) for start, group in starts]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def without_names(captions: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the captions that hold none of the names, in any case or with an underscore."""
    holds_name = name_matcher(names)
    clean = [caption for caption in captions if not holds_name(caption)]
    # A rounded share: with the exact number, others could test whether a name that they suspect is among those removed.
    percent = max(1, math.ceil(100 * (1 - len(clean) / max(1, len(captions)))))
    log.info("Up to %d%% of the captions hold a name to remove; they are left out", percent)
    return clean


def host_captions(captions: Sequence[str]) -> list[str]:
    """Return the captions that can carry a name: those with a space, so that a word can be replaced.

    Raises:
        InputError: if there is none.
    """
    hosts = [caption for caption in captions if " " in caption]
    if not hosts:
        raise InputError(
            "captions: expected captions of two words or more, so that a name can replace a word; found none"
        )
    return hosts
