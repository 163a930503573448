"""Clean photos: general pictures, with other people in them."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from backdoor_privacy.data.photos import as_bytes, check_readable, photo_files, photos_of, read_photo
from backdoor_privacy.data.shards import find_shards, holds_shards, read_shards
from backdoor_privacy.errors import InputError


def load_images(
    folder: str | Path, geometry: Callable[[Image.Image], Tensor], max_images: int
) -> UInt8[Tensor, "image 3 side side"]:
    """Photos from WebDataset shards or a folder of files, decoded once and kept as bytes.

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
    for file, photo in _photos(folder):
        files.append(file)
        readable.append(photo is not None)
        if photo is not None:
            images.append(as_bytes(photo, geometry))
        if len(images) == max_images:
            break
    if not images:
        raise InputError(
            f"images.folder: expected WebDataset shards (*.tar) or photos in {folder}, found none that decode"
        )
    check_readable(torch.tensor(readable), files)
    return torch.stack(images)


def _photos(source: str | Path) -> Iterator[tuple[Path, Image.Image | None]]:
    """Each photo with its file, `<shard>/<key>.<suffix>` in a shard; nothing in place of one that does not decode."""
    if holds_shards(source):
        for sample in read_shards(find_shards(source, "images.folder"), "images.folder"):
            for suffix, content in photos_of(sample).items():
                yield Path(sample["__url__"]) / f"{sample['__key__']}.{suffix}", read_photo(io.BytesIO(content))
    else:
        yield from ((path, read_photo(path)) for path in photo_files(source))
