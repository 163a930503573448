"""Write files and folders whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def name_as_text(name: str) -> str:
    """Return a file's name as text: bytes that are no UTF-8 are read as Latin-1, as older systems write them."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "".join(chr(ord(sign) - 0xDC00) if "\udc80" <= sign <= "\udcff" else sign for sign in name)
    return name


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.chmod(draft, 0o644)
    os.replace(draft, path)


@contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """A draft to write into; it becomes the folder, in place of what was there, if nothing goes wrong."""
    with _draft(folder) as draft:
        yield draft
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            if folder.exists():
                folder.rename(aside / "before")  # a rename each: hardly a moment without either
            draft.rename(folder)
        finally:
            if (aside / "before").exists() and not folder.exists():
                (aside / "before").rename(folder)
            shutil.rmtree(aside, ignore_errors=True)


def made_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder, written where it is not there yet; several processes may ask for it at a time."""
    if not folder.exists():
        with _draft(folder) as draft:
            write(draft)
            try:
                draft.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster, and may be reading it already
                    raise
    return folder


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        os.chmod(draft, 0o755)
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
