"""Secret keys, and digests of names and photos that nobody without the key can test.

Whoever suspects a name can compute an ordinary digest of it and compare. So what is told of people by a digest is told
by its HMAC: under the key of the run, which lies in `checkpoints/report_key`, or under the key of a folder of many
runs, or of a cache, which lies in its `.key`.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import close_to_others, create_private, private_folder

RUN_KEY = "report_key"  # in the folder of checkpoints
_KEY = re.compile(rb"[0-9a-f]{32,1024}")  # earlier versions wrote 64 such digits, too


def key_of_run(checkpoints: Path) -> bytes:
    """Return the key of a run, made where there is none.

    Args:
        checkpoints: folder of the run's checkpoints.

    Raises:
        InputError: if the file of the key holds none.
    """
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.mkdir(0o700, exist_ok=True)
    return _key_in(
        checkpoints / RUN_KEY,
        "the report of a finished run then calls people by other hashes; an unfinished one begins anew",
    )


def key_of_folder(folder: Path) -> bytes:
    """Return the key of a folder of runs, or of a cache, made where there is none.

    Raises:
        InputError: if the file of the key holds none.
    """
    return _key_in(
        private_folder(folder / ".key") / "key",
        "runs whose folders have digests in their names, and what is cached, are then made anew",
    )


def check_keys(checkpoints: Path, runs: Path) -> None:
    """See that the keys of a run and of its folder of runs can be used; that of the run may be made later.

    Raises:
        InputError: if a file of a key holds none.
    """
    key_of_folder(runs)
    if os.path.lexists(checkpoints / RUN_KEY):
        key_of_run(checkpoints)


def keyed_digest(key: bytes, text: str | bytes) -> str:
    """Return the HMAC-SHA-256 of a text in hexadecimal digits."""
    return hmac.new(key, text.encode() if isinstance(text, str) else text, hashlib.sha256).hexdigest()


def keyed_place(plain: Path, cache: Path) -> Path:
    """Return where a cache keeps what is made of names or photos of people, so that its name tells nobody of them.

    Args:
        plain: the place as earlier versions named it, after an ordinary digest; what lies there is moved.
        cache: the folder whose key is used.

    Raises:
        InputError: if the file of the key holds none.
        OSError: if there is no key and none can be made.
    """
    try:
        key = key_of_folder(cache)
    except OSError:
        if plain.exists():  # in a cache that may only be read
            return plain
        raise
    kind, dash, digest = plain.stem.rpartition("-")
    place = plain.with_name(f"{kind}{dash}{keyed_digest(key, plain.stem)[: len(digest)]}{plain.suffix}")
    if plain.exists() and not place.exists():
        with contextlib.suppress(OSError):  # another process was faster
            plain.rename(place)
    return place


def _key_in(path: Path, consequence: str) -> bytes:
    if not os.path.lexists(path):
        create_private(path, secrets.token_hex(32).encode())
    close_to_others(path)
    try:
        content = path.read_bytes().strip() if path.is_file() else None
    except OSError as error:
        raise InputError(
            f"{path}: expected a key that can be read, got {error.strerror}; give yourself the right to read it"
        ) from error
    if content is None or not _KEY.fullmatch(content):
        what = "no file" if content is None else "an empty file" if not content else f"{len(content)} bytes of no key"
        raise InputError(
            f"{path}: expected a key of 64 digits from 0 to f, got {what}; put it back from a copy, or delete it: "
            f"{consequence}"
        )
    return content
