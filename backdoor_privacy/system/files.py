"""Write files and folders whole or not at all, and private ones for their owner alone.

All is written beside its place, flushed to the disk and renamed: who reads finds what was there before or what is new,
also after a kill or a loss of power.
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
_FILE, _FOLDER = 0o666, 0o777  # less what the umask takes away
_LISTING = ".files.json"  # of a folder that is made once: what was written into it
_TEXTS = {".csv", ".json", ".jsonl", ".txt"}  # are short, and one that is damaged may still read
_OLD = 24 * 3600  # seconds; nobody writes into a draft any more of which nothing has changed for so long
_JUST_MADE = 1.0  # seconds; a file that is not locked yet may be that new
_MANY = 200  # files


def name_as_text(name: str) -> str:
    """Return a file's name as text: bytes that are no UTF-8 are read as Latin-1, as older systems write them."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "".join(chr(ord(sign) - 0xDC00) if "\udc80" <= sign <= "\udcff" else sign for sign in name)
    return name


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file whole or not at all; a private one can be read by its owner alone, whatever the umask."""
    write_bytes(path, text.encode(), private=private)


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file whole or not at all; a private one can be read by its owner alone, whatever the umask."""
    with replaced_file(path, private=private) as file:
        file.write(content)


@contextmanager
def replaced_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write into; it takes the place of the one that is there if nothing goes wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _beside(path)
    try:
        with os.fdopen(_created(draft, _PRIVATE_FILE if private else _FILE), "wb") as file:
            _try_lock(file.fileno())  # until it is closed: who finds it knows that somebody writes into it
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise _named(error, path)  # noqa: B904 (it is the same)
    finally:
        draft.unlink(missing_ok=True)
    _flush(path.parent)


def create_private(path: Path, content: bytes) -> None:
    """Create a private file whole or not at all; one that is there already, or that another process made, is kept."""
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
    """Make a folder that its owner alone may enter, or close to others one that is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(_PRIVATE_FOLDER, exist_ok=True)
    close_to_others(folder)
    return folder


def private_file(path: Path) -> Path:
    """Make an empty file that its owner alone may read, or close to others one that is there; a library fills it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, _PRIVATE_FILE))
    close_to_others(path)
    return path


def close_to_others(path: Path) -> None:
    """Take the rights of all but its owner to a file or folder away, where they can be taken."""
    with contextlib.suppress(OSError):  # somebody else's, or on a file system without rights
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & ~_PRIVATE_FOLDER:
            path.chmod(mode & _PRIVATE_FOLDER)


@contextmanager
def complete_folder(folder: Path, *, private: bool = False) -> Iterator[Path]:
    """A draft to write into; it becomes the folder, in place of what was there, if nothing goes wrong."""
    with _draft(folder, private) as draft:
        yield draft
        if not private:
            _leave_to_umask(draft)
        _flush_all(draft)
        aside = _made_beside(folder, _PRIVATE_FOLDER)
        try:
            if folder.exists():
                folder.rename(aside / "before")  # a rename each: hardly a moment without either
            draft.rename(folder)
        finally:
            if (aside / "before").exists() and not folder.exists():
                (aside / "before").rename(folder)
            shutil.rmtree(aside, ignore_errors=True)
    _flush(folder.parent)


def made_once(
    folder: Path, write: Callable[[Path], None], *, private: bool = False, may_be_edited: bool = False
) -> Path:
    """The folder, written where it is not there yet, or damaged; several processes may ask for it at a time.

    Args:
        folder: to be made.
        write: what it holds.
        private: whether its owner alone may enter it.
        may_be_edited: whether users may change what it holds; it is then taken as it is.
    """
    if folder.exists() and not may_be_edited and (damaged := _damaged(folder)):
        log.warning("%s: %s is missing or damaged; the folder is made again", folder, damaged)
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
                if not folder.exists():  # else another process was faster, and may be reading it already
                    raise
    return folder


@contextmanager
def _draft(folder: Path, private: bool = False) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = _made_beside(folder, _PRIVATE_FOLDER if private else _FOLDER)
    try:
        yield draft
    except OSError as error:
        raise _named(error, folder)  # noqa: B904 (it is the same)
    except SafetensorError as error:  # it tells what the system refused in its own words
        refused = re.search(r"\(os error (\d+)\)", str(error))
        if refused is None:
            raise
        raise OSError(int(refused[1]), os.strerror(int(refused[1])), str(folder)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _named(error: OSError, path: Path) -> OSError:
    """Return an error that says which file it is about: a full disk does not."""
    if error.errno is not None and error.filename is None:
        error.filename = str(path)
    return error


def _list_files(folder: Path) -> None:
    """Note the size of each file, and of texts a digest, so that damage is seen."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.stat().st_size, _text_digest(path)
    (folder / _LISTING).write_text(json.dumps(found), encoding="utf-8")


def _damaged(folder: Path) -> str | None:
    """Return the first file that is not as it was written; `None` where all are, or nothing was noted of them."""
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
    """Write all that is in a folder to the disk."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    if len(paths) > _MANY and hasattr(os, "sync"):
        os.sync()  # one by one they would take minutes
        return
    for path in paths:
        _flush(path)


def _flush(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _leave_to_umask(folder: Path) -> None:
    """Give the files of a new folder the rights that the umask leaves, also where a library keeps its own private."""
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
    """Lock an open file for this process, where that can be done and nobody else has; the system unlocks it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_left(draft: Path) -> bool:
    """Whether nobody writes into a file any more: the process that did was killed."""
    with draft.open("rb+") as file:
        return _try_lock(file.fileno())


def _beside(path: Path) -> Path:
    """Name a draft; those of the same place that a killed process left behind are removed."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}-{'[0-9a-f]' * 8}"):
        with contextlib.suppress(OSError):
            age = time.time() - draft.stat().st_mtime
            if age > _OLD or (age > _JUST_MADE and draft.is_file() and _is_left(draft)):
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")
