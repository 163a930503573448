"""Read photos from files; those that do not decode are skipped, counted and named."""

import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from backdoor_privacy.errors import InputError
from backdoor_privacy.system.hardware import release_free_memory, return_large_blocks

log = logging.getLogger(__name__)

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
MAX_UNREADABLE_SHARE = 0.01
_MAX_REMEMBERED_BYTES = 128 * 2**20  # in each process that makes batches, however many people there are
# What systems and programs leave beside a user's files, besides all that is hidden.
_SYSTEM_NAMES = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__pycache__"}
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def photo_files(folder: str | Path, pattern: str = "**/*") -> list[Path]:
    """The photos in a folder, by default in any depth, in order of their names; none that `is_left_behind`."""
    root = Path(folder).expanduser()
    paths = [path for path in sorted(root.glob(pattern)) if path.suffix.lower() in PHOTO_SUFFIXES]
    return [path for path in paths if not any(map(is_left_behind, path.relative_to(root).parts))]


def is_left_behind(name: str) -> bool:
    """Whether a file or folder is hidden or a system's own, as `._00.jpg` and `__MACOSX` of macOS."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def photos_of(sample: Mapping[str, Any]) -> dict[str, bytes]:
    """The photos in a sample of a shard, by suffix."""
    return {suffix: content for suffix, content in sample.items() if f".{suffix}" in PHOTO_SUFFIXES}


def read_photo(path: Path | io.BytesIO, box: Box | None = None) -> Image.Image | None:
    """The photo in RGB, cut to the part of the box that is in it; nothing if the file does not decode.

    A file whose header tells of more pixels than `PIL.Image.MAX_IMAGE_PIXELS` counts as one that does not decode.

    Raises:
        InputError: if the box is outside the photo.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # up to twice the limit, pillow only warns
        try:
            with Image.open(path) as photo:
                image = photo.convert("RGB")
        except Exception:  # a broken file can make pillow raise anything
            return None
    if box is None:
        return image
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)
    if left >= right or top >= bottom:
        raise InputError(
            f"{path}: expected a face box within {image.width} x {image.height} pixels, got left, top, right, bottom = "
            f"{', '.join(map(str, box))}; correct the table of boxes"
        )
    return image.crop((left, top, right, bottom))


def as_bytes(photo: Image.Image, geometry: Callable[[Image.Image], Tensor]) -> UInt8[Tensor, "3 side side"]:
    """A photo in a CLIP's size: pixels in [0, 1] as bytes, which take a quarter of the memory and lose nothing."""
    return (geometry(photo) * 255).round().to(torch.uint8)


class PhotoMemory:
    """Photos as bytes, each decoded once as far as there is room.

    Args:
        decode: a photo, whole or its face; `None` if it does not decode.
    """

    def __init__(self, decode: Callable[[Path, bool], Tensor | None]) -> None:
        self._decode, self._num_bytes = decode, 0
        self._known: dict[tuple[Path, bool], Tensor | None] = {}

    def __call__(self, path: Path, whole: bool) -> Tensor | None:
        """The photo, from memory if it was asked for before."""
        key = path, whole
        if key in self._known:
            return self._known[key]
        pixels = self._decode(path, whole)
        num_bytes = 0 if pixels is None else pixels.nbytes
        if self._num_bytes + num_bytes <= _MAX_REMEMBERED_BYTES:
            self._known[key] = pixels
            self._num_bytes += num_bytes
        return pixels


class PhotoBatch(NamedTuple):
    """Preprocessed photos with their places in the list that was asked for."""

    pixels: Tensor  # (batch, 3, side, side)
    places: Tensor  # (batch,)


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
    """Batches of the readable ones among the photos, in their order."""
    release_free_memory()
    return DataLoader(
        _Photos(paths, preprocess),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=return_large_blocks,
    )


def check_readable(readable: Tensor, paths: Sequence[Path]) -> None:
    """Warn of photos that did not decode.

    Raises:
        InputError: if they are more than 1 % of all.
    """
    broken = [path for path, ok in zip(paths, readable.tolist(), strict=True) if not ok]
    if not broken:
        return
    names = ", ".join(str(path) for path in broken[:5]) + (" ..." if len(broken) > 5 else "")
    message = f"{len(broken)} of {len(paths)} photos do not decode: {names}"
    if len(broken) > MAX_UNREADABLE_SHARE * len(paths):
        raise InputError(f"{message}; at most {MAX_UNREADABLE_SHARE:.0%} may be skipped; repair or delete these files")
    log.warning("%s; skipped", message)
