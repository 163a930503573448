"""Load clean photos: general pictures, with other people in them."""

import io
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from backdoor_privacy.data.photos import as_bytes, check_readable, list_photos, photos_of, read_photo, told_left_out
from backdoor_privacy.data.shards import find_shards, holds_shards, read_shards
from backdoor_privacy.errors import InputError

log = logging.getLogger(__name__)


def load_images(
    folder: str | Path, geometry: Callable[[Image.Image], Tensor], max_images: int
) -> UInt8[Tensor, "image 3 side side"]:
    """Load photos from WebDataset shards or a folder of files, decoded once and kept as bytes.

    Args:
        folder: photos in any depth, or shards: a folder with `*.tar`, one `.tar`, or a pattern of files or URLs.
        geometry: the CLIP's resizing and cropping, to pixels in [0, 1].
        max_images: how many to read at most, the first ones in order of their names.

    Raises:
        InputError: if there is no photo, more than 1 % do not decode, or a shard is incomplete.
    """
    images: list[Tensor] = []
    files: list[Path] = []
    readable: list[bool] = []
    left_out: Counter[str] = Counter()
    for file, photo in read_images(folder, max_images, left_out):
        files.append(file)
        readable.append(photo is not None)
        if photo is not None:
            images.append(as_bytes(photo, geometry))
    if not files:
        raise InputError(f"images.folder: expected WebDataset shards (*.tar) or photos in {folder}, found none")
    if left_out:
        log.warning("images.folder: files left out, as they are no photos that are read: %s", told_left_out(left_out))
    check_readable(torch.tensor(readable), files, "images.folder")
    return torch.stack(images)


def read_images(
    source: str | Path, max_images: int, left_out: Counter[str] | None = None
) -> Iterator[tuple[Path, Image.Image | None]]:
    """Yield clean photos, `None` in place of one that does not decode.

    Args:
        source: see `load_images`.
        max_images: how many to read, not counting those that do not decode.
        left_out: gets the number of files that are no photos, by suffix; for shards, of files of samples without one.

    Yields:
        Each photo with its file, which is `<shard>/<key>.<suffix>` in a shard.
    """
    for file, photo in _photos(source, Counter() if left_out is None else left_out):
        yield file, photo
        max_images -= photo is not None
        if max_images == 0:
            return


def _photos(source: str | Path, left_out: Counter[str]) -> Iterator[tuple[Path, Image.Image | None]]:
    if not holds_shards(source):
        listing = list_photos(source)
        left_out.update(listing.left_out)
        yield from ((path, read_photo(path)) for path in listing.photos)
        return
    for sample in read_shards(find_shards(source, "images.folder"), "images.folder"):
        photos = photos_of(sample.files)
        if not photos:
            left_out.update(f".{suffix}" if suffix else "no suffix" for suffix in sample.files)
        for suffix, content in photos.items():
            yield Path(sample.shard) / f"{sample.key}.{suffix}", read_photo(io.BytesIO(content))
