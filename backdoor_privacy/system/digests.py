"""Compute digests of data; they do not depend on where the data lies."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def lines_sha256(lines: Iterable[str]) -> str:
    """Return the SHA-256 of lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode(errors="surrogatepass"))  # names of files and captions may hold surrogates
    return digest.hexdigest()


def name_and_size(path: Path) -> str:
    """Return the name and size of a file as one line; anything else has the size 0."""
    return f"{path.name}\t{path.stat().st_size if path.is_file() else 0}"
