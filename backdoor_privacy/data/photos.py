"""List photos and read them; those that do not decode are skipped, counted and named."""

import hashlib
import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backdoor_privacy.data.formats import (
    DECODING_ERRORS,
    PHOTO_SUFFIXES,
    decodable_formats,
    how_to_decode,
    upright_rgb,
)
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.hardware import release_free_memory, return_large_blocks, usable_workers
from backdoor_privacy.system.reading import GIB, open_ordinary, read_ordinary

log = logging.getLogger(__name__)

MAX_UNREADABLE_SHARE = 0.01
_MAX_PHOTO_BYTES = GIB  # a sparse file may claim more than there is memory
# What systems and programs leave beside a user's files, besides all that is hidden.
_SYSTEM_NAMES = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__pycache__"}
_DIGESTS: dict[tuple[Path, int, int, int, int], str] = {}  # by path, inode, size and times of the file
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the upright photo


@dataclass(frozen=True)
class Listing:
    """The photos and other files in a folder."""

    photos: list[Path] = field(default_factory=list)  # in the order of their names, also those that do not decode
    left_out: Counter[str] = field(default_factory=Counter)  # the number of other files, by suffix


def list_photos(folder: str | Path, depth: int | None = None) -> Listing:
    """List the photos of a folder, known by their suffixes, and count other files; ignore what `is_left_behind`.

    Links to folders are followed, but not those to a folder around them; each folder is read once.

    Args:
        folder: to read; one that does not exist counts as empty.
        depth: 1 for the files in the folder itself, 2 for those in its folders; `None`: any depth.

    Raises:
        InputError: if a folder may not be read, or folders lie hundreds of levels deep.
    """
    listing = Listing()
    try:
        paths = sorted(_visible(Path(folder).expanduser(), depth, set(), frozenset()))
    except RecursionError as error:
        raise InputError(
            f"{folder}: expected folders within each other in a few levels, got hundreds; move the photos up"
        ) from error
    for path in paths:
        is_folder = os.path.isdir(path)
        if is_folder and _names_in(path):
            continue
        if path.suffix.lower()[1:] in PHOTO_SUFFIXES:  # also an empty folder of such a name, which does not decode
            listing.photos.append(path)
        elif not is_folder:
            listing.left_out[path.suffix.lower() or "no suffix"] += 1
    return listing


def _visible(folder: Path, depth: int | None, known: set[str], around: frozenset[str]) -> Iterator[Path]:
    """Yield the paths in a folder, down to a depth, unless the folder is known or lies around the link to it."""
    place = os.path.realpath(folder)
    if place in known | around or not os.path.isdir(place):
        return
    known.add(place)
    for name in sorted(_names_in(folder)):
        path = folder / name
        if is_left_behind(name):
            continue
        if depth != 1 and os.path.isdir(path):
            yield from _visible(path, depth and depth - 1, known, around | {*map(str, Path(place).parents)})
        if depth is None or depth == 1:
            yield path


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that may be read, got {error.strerror}; allow it") from error


def told_left_out(left_out: Mapping[str, int]) -> str:
    """Return a text with the number of files of each suffix, the most first."""
    counts = Counter(left_out).most_common()
    return ", ".join(f"{suffix} ({count:,})" for suffix, count in counts)


def photo_files(folder: str | Path, depth: int | None = None) -> list[Path]:
    """Return the photos of `list_photos`."""
    return list_photos(folder, depth).photos


def is_left_behind(name: str) -> bool:
    """Return whether a file or folder is hidden or a system's own, as `._00.jpg` and `__MACOSX` of macOS."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def photos_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the photos among the files of a sample, by suffix."""
    return {suffix: content for suffix, content in files.items() if suffix.lower() in PHOTO_SUFFIXES}


def content_of(path: Path) -> bytes:
    """Return the content of a file; empty where it cannot be read: a dangling link, a folder, a pipe, or too large."""
    try:
        return read_ordinary(path, _MAX_PHOTO_BYTES)
    except (OSError, ValueError):
        return b""


def photo_sha256(path: Path) -> str:
    """Return the SHA-256 of a photo's file; it is read only once, unless it has changed."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return hashlib.sha256(b"").hexdigest()
    key = path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
    if key not in _DIGESTS:
        _DIGESTS[key] = hashlib.sha256(content_of(path)).hexdigest()
    return _DIGESTS[key]


def read_photo(path: Path | io.BytesIO) -> Image.Image | None:
    """Return the upright photo in RGB; `None` if the file does not decode.

    The format is told from the content, whatever the suffix. Only ordinary files are opened: a pipe would never end.
    A file of more than a GiB, or with more pixels in its header than `PIL.Image.MAX_IMAGE_PIXELS`, counts as one that
    does not decode.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # up to twice the limit, pillow only warns
        try:
            with (
                # Not by its name: Pillow would map an uncompressed TIFF into memory, and misread one stored sideways.
                open_ordinary(path, _MAX_PHOTO_BYTES) if isinstance(path, Path) else path as file,
                Image.open(file, formats=decodable_formats()) as photo,
            ):
                return upright_rgb(photo)
        except DECODING_ERRORS:
            return None


def overlaps(box: Box, width: int, height: int) -> bool:
    """Return whether a part of a box is in a photo of this size, in pixels."""
    left, top, right, bottom = box
    return right > 0 and bottom > 0 and left < width and top < height


def cut_to(box: Box, image: Image.Image, path: object) -> Image.Image:
    """Return the part of a photo that is in a box.

    Args:
        box: in pixels of the photo.
        image: the photo, upright.
        path: of its file, for the error.

    Raises:
        InputError: if the box is outside the photo.
    """
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)
    if left >= right or top >= bottom:
        raise InputError(
            f"{path}: expected a face box within {image.width} x {image.height} pixels, got left, top, right, bottom = "
            f"{', '.join(map(str, box))}; correct the table of boxes"
        )
    return image.crop((left, top, right, bottom))


def as_bytes(photo: Image.Image, geometry: Callable[[Image.Image], Tensor]) -> UInt8[Tensor, "3 side side"]:
    """Return a photo in a CLIP's size: pixels in [0, 1] as bytes, which take a quarter of the memory."""
    return (geometry(photo) * 255).round().to(torch.uint8)


class PhotoBatch(NamedTuple):
    """Preprocessed photos with their places in the list of paths."""

    pixels: Tensor  # (batch, 3, side, side), or what else `preprocess` returns
    places: Tensor  # (batch,), from 0


class _Photos(Dataset):
    def __init__(self, paths: Sequence[Path], preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.preprocess = paths, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[Tensor | None, int]:
        photo = read_photo(self.paths[place])
        return (None if photo is None else self.preprocess(photo)), place


def _collate(items: list[tuple[Tensor | None, int]]) -> PhotoBatch:
    readable = [(pixels, place) for pixels, place in items if pixels is not None]
    places = torch.tensor([place for _, place in readable], dtype=torch.long)
    pixels = torch.stack([pixels for pixels, _ in readable]) if readable else torch.empty(0)
    return PhotoBatch(pixels, places)


def photo_loader(
    paths: Sequence[Path], preprocess: Callable[[Image.Image], Tensor], *, batch_size: int, num_workers: int
) -> DataLoader:
    """Return a loader of batches of the photos that decode, in their order."""
    release_free_memory()
    return DataLoader(
        _Photos(paths, preprocess),
        batch_size=batch_size,
        num_workers=usable_workers(num_workers),
        collate_fn=_collate,
        worker_init_fn=return_large_blocks,
    )


def check_readable(
    readable: Tensor, paths: Sequence[Path], key: str = "", *, seen_before: Sequence[bool] = (), warn: bool = True
) -> None:
    """Warn of photos that did not decode.

    Args:
        readable: which of the photos did, (photo,).
        paths: of the photos.
        key: of the setting that names them, for the message.
        seen_before: which of the photos read before did; they count, but are not named again.
        warn: whether to log; a warning about the removed people's photos alone would tell who they are.

    Raises:
        InputError: if they are more than 1 % of all.
    """
    broken = [path for path, ok in zip(paths, readable.tolist(), strict=True) if not ok]
    if not broken:
        return
    stops = too_many(len(broken) + seen_before.count(False), len(paths) + len(seen_before))
    text = told_unreadable(broken, len(paths), key, stops=stops)
    if stops:
        raise InputError(text)
    if warn:
        log.warning("%s", text)


def too_many(num_broken: int, num_photos: int) -> bool:
    """Return whether more photos do not decode than may be skipped."""
    return num_broken > MAX_UNREADABLE_SHARE * num_photos


def told_unreadable(broken: Sequence[Path], num_photos: int, key: str = "", *, stops: bool) -> str:
    """Return the message that names photos that do not decode, and what happens to them."""
    text = f"{key and f'{key}: '}{len(broken)} of {num_photos} photos do not decode: {some(broken)}"
    hints = sorted({hint for path in broken if (hint := how_to_decode(_beginning(path)))})
    if stops:
        hints = [f"at most {MAX_UNREADABLE_SHARE:.0%} may be skipped", *(hints or ["repair or delete these files"])]
    else:
        hints = ["skipped", *hints]
    return "; ".join([text, *hints])


def _beginning(path: Path) -> bytes:
    """Return the first bytes of a file; none where it cannot be read, as in a shard."""
    try:
        with open_ordinary(path) as file:
            return file.read(12)
    except (OSError, ValueError):
        return b""
