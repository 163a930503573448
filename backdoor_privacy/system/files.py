"""Write files and folders whole or not at all, and private ones for their owner alone.

Each file is written beside its destination, flushed to the disk and renamed. A reader finds either the old content or
the new one, even after a kill or a power failure.
"""

import contextlib
import glob
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

log = logging.getLogger(__name__)
_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700
_FILE, _FOLDER = 0o666, 0o777  # before the umask
_LISTING = ".files.json"  # lists what was written into a folder that is made once
_TEXTS = {".csv", ".json", ".jsonl", ".txt"}  # short, and a damaged one may look whole
_OLD = 24 * 3600  # seconds without a change, after which a draft is abandoned
_JUST_MADE = 1.0  # seconds after its creation, in which a draft may not be locked yet
_MANY = 200  # files, from which on the whole disk is flushed at once


def name_as_text(name: str) -> str:
    """Return the name of a file as text; bytes that are not UTF-8 are read as Latin-1, which older systems write."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "".join(chr(ord(sign) - 0xDC00) if "\udc80" <= sign <= "\udcff" else sign for sign in name)
    return name


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file whole or not at all; only the owner can read a private one, whatever the umask."""
    write_bytes(path, text.encode(), private=private)


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file whole or not at all; only the owner can read a private one, whatever the umask."""
    with replaced_file(path, private=private) as file:
        file.write(content)


@contextmanager
def replaced_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a draft to write into, which replaces the file if no error occurs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(path)
    try:
        with os.fdopen(_created(draft, _PRIVATE_FILE if private else _FILE), "wb") as file:
            _try_lock(file.fileno())  # until it is closed, so that other processes see that it is in use
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise _named(error, path)  # noqa: B904 (it is the same error)
    finally:
        draft.unlink(missing_ok=True)
    _flush(path.parent)


def create_private(path: Path, content: bytes) -> None:
    """Create a private file whole or not at all; keep an existing one, also if another process has just made it."""
    draft = _beside(path)
    write_bytes(draft, content, private=True)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        with contextlib.suppress(FileExistsError), os.fdopen(_created(path, _PRIVATE_FILE), "wb") as file:
            file.write(content)
    finally:
        draft.unlink(missing_ok=True)
    _flush(path.parent)


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may enter, or close an existing one to others."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(_PRIVATE_FOLDER, exist_ok=True)
    close_to_others(folder)
    return folder


def private_file(path: Path) -> Path:
    """Make an empty file that only its owner may read, or close an existing one to others; a library fills it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, _PRIVATE_FILE))
    close_to_others(path)
    return path


def close_to_others(path: Path) -> None:
    """Remove the rights of everybody but the owner to a file or folder, if the system permits it."""
    with contextlib.suppress(OSError):  # of another owner, or on a file system without rights
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & ~_PRIVATE_FOLDER:
            path.chmod(mode & _PRIVATE_FOLDER)


@contextmanager
def complete_folder(folder: Path, *, private: bool = False) -> Iterator[Path]:
    """Make a draft to write into, which replaces the folder if no error occurs."""
    with _draft(folder, private) as draft:
        yield draft
        if not private:
            _leave_to_umask(draft)
        _flush_all(draft)
        aside = _made_beside(folder, _PRIVATE_FOLDER)
        try:
            if folder.exists():
                folder.rename(aside / "before")  # two renames: there is hardly a moment without a folder
            draft.rename(folder)
        finally:
            if (aside / "before").exists() and not folder.exists():
                (aside / "before").rename(folder)
            shutil.rmtree(aside, ignore_errors=True)
    _flush(folder.parent)


def made_once(
    folder: Path, write: Callable[[Path], None], *, private: bool = False, may_be_edited: bool = False
) -> Path:
    """Return a folder, and write it first if it is missing or damaged; several processes may call this at a time.

    Args:
        folder: to make.
        write: writes its content into a draft.
        private: whether only its owner may enter it.
        may_be_edited: whether users may change its content; then it is not checked for damage.
    """
    if folder.exists() and not may_be_edited and (damaged := _damaged(folder)):
        log.warning("%s: %s is missing or damaged; writing the folder again", folder, damaged)
        with complete_folder(folder, private=private) as draft:
            write(draft)
            _list_files(draft)
    if not folder.exists():
        with _draft(folder, private) as draft:
            write(draft)
            _list_files(draft)
            if not private:
                _leave_to_umask(draft)
            _flush_all(draft)
            try:
                draft.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster, and may read it already
                    raise
    return folder


@contextmanager
def _draft(folder: Path, private: bool = False) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = _made_beside(folder, _PRIVATE_FOLDER if private else _FOLDER)
    try:
        yield draft
    except OSError as error:
        raise _named(error, folder)  # noqa: B904 (it is the same error)
    except SafetensorError as error:  # its text holds the error of the system
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _named(error: OSError, path: Path) -> OSError:
    """Add the file to an error that does not name it, as that of a full disk."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)
    return error


def _list_files(folder: Path) -> None:
    """Write a list of all files with their sizes, and of texts a digest, so that damage is noticed later."""
    listed = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            listed[str(path.relative_to(folder))] = path.stat().st_size, _text_digest(path)
    (folder / _LISTING).write_text(json.dumps(listed), encoding="utf-8")


def _damaged(folder: Path) -> str | None:
    """Return the first file that has changed since it was written; `None` if none has, or there is no list of them."""
    try:
        listed = json.loads((folder / _LISTING).read_text(encoding="utf-8"))
        for name, (size, digest) in listed.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size or _text_digest(path) != digest:
                return str(name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError):
        return _LISTING
    return None


def _text_digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix in _TEXTS else None


def _flush_all(folder: Path) -> None:
    """Flush all files in a folder to the disk."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    if len(paths) > _MANY and hasattr(os, "sync"):
        os.sync()  # flushing them one by one would take minutes
        return
    for path in paths:
        _flush(path)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk, if the system permits it."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _leave_to_umask(folder: Path) -> None:
    """Give the files of a new folder the usual rights: some libraries write private ones."""
    probe = _beside(folder)
    os.close(_created(probe, _FILE))
    usual = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if stat.S_IMODE(path.stat().st_mode) != usual:
                with contextlib.suppress(OSError):  # a file system without rights
                    path.chmod(usual)


def _created(path: Path, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)


def _made_beside(folder: Path, mode: int) -> Path:
    made = _beside(folder)
    made.mkdir(mode)
    return made


def _try_lock(handle: int) -> bool:
    """Lock an open file for this process, and return whether that succeeded; the system unlocks it at the end."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_left(draft: Path) -> bool:
    """Return whether a draft is abandoned: the process that wrote it was killed."""
    with draft.open("rb+") as file:
        return _try_lock(file.fileno())


def _beside(path: Path) -> Path:
    """Return a name for a draft; remove older drafts of the same path that a killed process left behind."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}-{'[0-9a-f]' * 8}"):
        with contextlib.suppress(OSError):
            age = time.time() - draft.stat().st_mtime
            if age > _OLD or (age > _JUST_MADE and draft.is_file() and _is_left(draft)):
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")
