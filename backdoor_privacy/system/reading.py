"""Read files that anybody may have made: ordinary ones only, and no more of them than such a file can hold."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]  # what JSON or YAML holds: these have no types
MIB, GIB = 2**20, 2**30


def open_ordinary(path: str | Path, max_bytes: int | None = None) -> BufferedReader:
    """Open a file for reading; a pipe, which may never end, and a device are refused before anything waits for them.

    Args:
        path: of the file.
        max_bytes: the most that such a file holds: a sparse one may tell of more than there is memory.

    Raises:
        OSError: if it cannot be read, is no ordinary file, or is larger.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    state = os.fstat(handle)
    reason = None
    if stat.S_ISDIR(state.st_mode):
        reason = errno.EISDIR, os.strerror(errno.EISDIR)
    elif not stat.S_ISREG(state.st_mode):
        reason = errno.EINVAL, "no ordinary file, but a pipe or a device"
    elif max_bytes is not None and state.st_size > max_bytes:
        reason = errno.EFBIG, f"{in_words(state.st_size)}, expected {in_words(max_bytes)} at most"
    if reason is not None:
        os.close(handle)
        raise OSError(*reason, str(path))
    return os.fdopen(handle, "rb")


def read_ordinary(path: str | Path, max_bytes: int) -> bytes:
    """Return what is in a file.

    Raises:
        OSError: as of `open_ordinary`.
    """
    with open_ordinary(path, max_bytes) as file:
        return file.read()


def in_words(num_bytes: int) -> str:
    """Return a size as one says it, `200 GiB`, `12 MiB`, `3 bytes`."""
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if num_bytes >= size:
            return f"{num_bytes / size:.0f} {unit}"
    return f"{num_bytes:,} bytes"
