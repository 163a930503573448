"""Make secret keys, and digests of names and photos that cannot be tested without the key.

Anybody could compute the ordinary digest of a suspected name and compare. Digests of people are therefore HMACs: under
the key of the run, in `checkpoints/report_key`, or under the key of a folder of runs or of a cache, in its `.key`.
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
_KEY = re.compile(rb"[0-9a-f]{32,1024}")  # earlier versions wrote 64 such digits as well


def key_of_run(checkpoints: Path) -> bytes:
    """Return the key of a run; make it if there is none.

    Args:
        checkpoints: folder of the run's checkpoints.

    Raises:
        InputError: if the key file holds no key.
    """
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.mkdir(0o700, exist_ok=True)
    return _key_in(
        checkpoints / RUN_KEY,
        "then the report of a finished run shows other hashes of people, and an unfinished run starts again",
    )


def key_of_folder(folder: Path) -> bytes:
    """Return the key of a folder of runs or of a cache; make it if there is none.

    Raises:
        InputError: if the key file holds no key.
    """
    return _key_in(
        private_folder(folder / ".key") / "key",
        "then runs with digests in their folders' names start again, and cached files are made again",
    )


def check_keys(checkpoints: Path, runs: Path) -> None:
    """Check that the keys of a run and of its folder of runs can be used; the key of the run may be made later.

    Raises:
        InputError: if a key file holds no key.
    """
    key_of_folder(runs)
    if os.path.lexists(checkpoints / RUN_KEY):
        key_of_run(checkpoints)


def keyed_digest(key: bytes, text: str | bytes) -> str:
    """Return the HMAC-SHA-256 of a text in hexadecimal digits."""
    return hmac.new(key, text.encode() if isinstance(text, str) else text, hashlib.sha256).hexdigest()


def keyed_place(plain: Path, cache: Path) -> Path:
    """Return where a cache keeps data of people, under a name that reveals nothing about them.

    Args:
        plain: the path with an ordinary digest, as earlier versions named it; an existing file there is moved.
        cache: the folder whose key is used.

    Raises:
        InputError: if the key file holds no key.
        OSError: if there is no key and none can be made.
    """
    try:
        key = key_of_folder(cache)
    except OSError:
        if plain.exists():  # in a read-only cache
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
            f"{path}: expected a key that can be read, got {error.strerror}; change the permissions of the file"
        ) from error
    if content is None or not _KEY.fullmatch(content):
        what = (
            "no file" if content is None else "an empty file" if not content else f"{len(content)} bytes without a key"
        )
        raise InputError(
            f"{path}: expected a key of 64 digits from 0 to f, got {what}; restore it from a copy, or delete it: "
            f"{consequence}"
        )
    return content
