"""Read text in the encodings that programs write: UTF-8, with or without a byte order mark, UTF-16 and UTF-32."""

import codecs
import errno
import io
import json
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import cast

from backdoor_privacy.data.shards import open_source
from backdoor_privacy.errors import InputError

_MAX_LINE = 2**24  # characters; a longer line is no text, and may fill the memory
_MARKS = {  # UTF-32 before UTF-16, whose mark begins in the same way
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decoded(content: bytes, errors: str = "strict") -> str:
    """Decode text by its byte order mark, without one as UTF-8.

    Raises:
        UnicodeError: if it holds other bytes, or NUL characters, as UTF-16 without a mark does.
    """
    text = content.decode(_encoding(content), errors)
    if errors == "strict":
        _refuse_nul(text)
    return text


def json_of(text: str) -> object:
    """Return the content of a text in JSON.

    Raises:
        ValueError: if it is no JSON, or has too many levels.
    """
    try:
        content: object = json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON of too many levels") from error
    return content


def text_lines(place: str | Path) -> Iterator[str]:
    """Yield the lines of a file or a URL without their ends, of any kind; read piece by piece.

    Raises:
        OSError: if it cannot be read.
        UnicodeError: see `decoded`.
    """
    with open_source(str(place)) as stream:
        buffered = io.BufferedReader(cast(io.RawIOBase, stream))
        with io.TextIOWrapper(buffered, encoding=_encoding(buffered.peek(4))) as text:
            while line := text.readline(_MAX_LINE):
                _refuse_nul(line)
                if len(line) == _MAX_LINE and not line.endswith("\n"):
                    raise OSError(errno.EFBIG, f"a line of more than {_MAX_LINE:,} characters")
                yield line.removesuffix("\n")


def read_lines(file: str | Path, expected: str, keep_blank: bool = False) -> list[str]:
    """Read the lines of a text file, without spaces around them.

    Args:
        file: to read, or a URL.
        expected: how errors begin: the key, and what was expected.
        keep_blank: whether blank lines are kept, except at the end.

    Raises:
        InputError: if it is not there or no such text.
    """
    try:
        lines = [line.strip() for line in text_lines(file)]
    except UnicodeError as error:
        raise InputError(f"{expected} in UTF-8, got other bytes in {file}; save it as UTF-8") from error
    except (OSError, HTTPException) as error:
        raise InputError(f"{expected}, got {file}") from error
    if not keep_blank:
        return list(filter(None, lines))
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _encoding(start: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), "utf-8")


def _refuse_nul(text: str) -> None:
    if "\0" in text:
        raise UnicodeError("NUL characters")
