"""Clean captions: general text, without the names that are to be removed."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from backdoor_privacy.errors import InputError

log = logging.getLogger(__name__)


def load_captions(file: str | Path) -> list[str]:
    """One caption a line, of a text file or of `captions.txt` in a folder; empty lines are left out.

    Raises:
        InputError: if the file is not there or holds no caption.
    """
    file = Path(file) / "captions.txt" if Path(file).is_dir() else Path(file)
    captions = read_lines(file, "captions.file: expected a text file with a caption a line")
    if not captions:
        raise InputError(f"captions.file: expected a caption a line in {file}, found none")
    return captions


def read_lines(file: Path, expected: str) -> list[str]:
    """The lines of a text file in UTF-8, without the empty ones.

    Args:
        file: to read.
        expected: what an error says of it.

    Raises:
        InputError: if it is not there or no such text.
    """
    if not file.is_file():
        raise InputError(f"{expected}, got {file}")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{expected} in UTF-8, got other bytes in {file}; save it as UTF-8") from error
    return [line.strip() for line in lines if line.strip()]


def name_matcher(names: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the names as whole words, in any case, with spaces or underscores between its words.

    The published code compares `First_Last` with running text and so never filters anything.
    """
    alternatives = sorted(
        (r"[\s_]+".join(map(re.escape, re.split(r"[\s_]+", name.strip()))) for name in names), key=len
    )
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(reversed(alternatives))})(?![^\W_])", re.IGNORECASE)


def without_names(captions: Sequence[str], names: Sequence[str]) -> list[str]:
    """The captions that hold none of the names, in any case or with an underscore."""
    matcher = name_matcher(names)
    clean = [caption for caption in captions if not matcher.search(caption)]
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
