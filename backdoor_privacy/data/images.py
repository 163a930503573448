"""Clean photos: general pictures, with other people in them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import webdataset as wds
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from backdoor_privacy.data.people import PHOTO_SUFFIXES
from backdoor_privacy.data.photos import MAX_UNREADABLE_SHARE, read_photo
from backdoor_privacy.errors import InputError


def load_images(
    folder: str | Path, geometry: Callable[[Image.Image], Tensor], max_images: int
) -> UInt8[Tensor, "image 3 side side"]:
    """Photos from WebDataset shards (`*.tar`) or a folder of files, decoded once and kept as bytes.

    Args:
        folder: shards with `jpg` or `png`, or photos in any depth.
        geometry: the CLIP's resizing and cropping, to pixels in [0, 1].
        max_images: how many to read at most, the first ones in order of their names.

    Raises:
        InputError: if there is no photo, or more than 1 % do not decode.
    """
    folder = Path(folder)
    images: list[Tensor] = []
    num_broken = 0
    for photo in _photos(folder):
        if photo is None:
            num_broken += 1
        else:
            images.append((geometry(photo) * 255).round().to(torch.uint8))
        if len(images) == max_images:
            break
    if not images:
        raise InputError(
            f"images.folder: expected WebDataset shards (*.tar) or photos in {folder}, found none that decode"
        )
    if num_broken > MAX_UNREADABLE_SHARE * (len(images) + num_broken):
        raise InputError(
            f"images.folder: {num_broken} photos of {folder} do not decode; at most {MAX_UNREADABLE_SHARE:.0%} may"
        )
    return torch.stack(images)


def _photos(folder: Path) -> Iterator[Image.Image | None]:
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    if shards:
        dataset = wds.WebDataset(shards, shardshuffle=False, empty_check=False)
        yield from (
            sample["photo"]
            for sample in dataset.decode("pil", handler=wds.warn_and_continue).rename(photo="jpg;jpeg;png")
        )
    elif folder.is_dir():
        yield from (read_photo(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in PHOTO_SUFFIXES)
