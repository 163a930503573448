"""Read files from any source: ordinary files only, and none that is larger than expected."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]  # content of JSON or YAML, which has no types
MIB, GIB = 2**20, 2**30


def open_ordinary(path: str | Path, max_bytes: int | None = None) -> BufferedReader:
    """Open an ordinary file for reading; refuse a pipe or a device at once, because reading one may never end.

    Args:
        path: of the file.
        max_bytes: largest size that is accepted; a sparse file may claim more than the memory holds.

    Raises:
        OSError: if it cannot be read, is not an ordinary file, or is larger.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    state = os.fstat(handle)
    reason = None
    if stat.S_ISDIR(state.st_mode):
        reason = errno.EISDIR, os.strerror(errno.EISDIR)
    elif not stat.S_ISREG(state.st_mode):
        reason = errno.EINVAL, "not an ordinary file, but a pipe or a device"
    elif max_bytes is not None and state.st_size > max_bytes:
        reason = errno.EFBIG, f"{in_words(state.st_size)}, expected {in_words(max_bytes)} at most"
    if reason is not None:
        os.close(handle)
        raise OSError(*reason, str(path))
    return os.fdopen(handle, "rb")


def read_ordinary(path: str | Path, max_bytes: int) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: as `open_ordinary`.
    """
    with open_ordinary(path, max_bytes) as file:
        return file.read()


def in_words(num_bytes: int) -> str:
    """Return a size in words: `200 GiB`, `12 MiB`, `3 bytes`."""
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if num_bytes >= size:
            return f"{num_bytes / size:.0f} {unit}"
    return f"{num_bytes:,} bytes"
