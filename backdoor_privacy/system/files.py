"""Write files and folders whole or not at all, and private ones for their owner alone."""

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700
_FILE, _FOLDER = 0o666, 0o777  # less what the umask takes away


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
    path.parent.mkdir(parents=True, exist_ok=True)
    with _draft_file(path, content, private) as draft:
        os.replace(draft, path)


def create_private(path: Path, content: bytes) -> None:
    """Create a private file whole or not at all; one that is there already, or that another process made, is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _draft_file(path, content, private=True) as draft:
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            with contextlib.suppress(FileExistsError), os.fdopen(_created(path, _PRIVATE_FILE), "wb") as file:
                file.write(content)


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
def complete_folder(folder: Path) -> Iterator[Path]:
    """A draft to write into; it becomes the folder, in place of what was there, if nothing goes wrong."""
    with _draft(folder) as draft:
        yield draft
        aside = _made_beside(folder, _PRIVATE_FOLDER)
        try:
            if folder.exists():
                folder.rename(aside / "before")  # a rename each: hardly a moment without either
            draft.rename(folder)
        finally:
            if (aside / "before").exists() and not folder.exists():
                (aside / "before").rename(folder)
            shutil.rmtree(aside, ignore_errors=True)


def made_once(folder: Path, write: Callable[[Path], None], *, private: bool = False) -> Path:
    """The folder, written where it is not there yet; several processes may ask for it at a time.

    Args:
        folder: to be made.
        write: what it holds.
        private: whether its owner alone may enter it.
    """
    if not folder.exists():
        with _draft(folder, private) as draft:
            write(draft)
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
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _draft_file(path: Path, content: bytes, private: bool) -> Iterator[Path]:
    """A new file beside another one, to be put in its place; it is gone afterwards."""
    draft = _beside(path)
    try:
        with os.fdopen(_created(draft, _PRIVATE_FILE if private else _FILE), "wb") as file:
            file.write(content)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _created(path: Path, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)


def _made_beside(folder: Path, mode: int) -> Path:
    made = _beside(folder)
    made.mkdir(mode)
    return made


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")
