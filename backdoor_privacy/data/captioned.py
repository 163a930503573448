"""Photos with captions: one or several for each photo."""

from pathlib import Path
from typing import Any

from backdoor_privacy.data.captions import read_coco
from backdoor_privacy.data.photos import photo_files, photos_of
from backdoor_privacy.data.shards import find_shards, holds_shards, unpack_shards
from backdoor_privacy.data.texts import read_lines
from backdoor_privacy.errors import InputError

_KEY = "utility.retrieval"


def load_captioned(folder: str | Path, file: str | Path | None, cache: str | Path) -> dict[Path, list[str]]:
    """The captions of each photo, in the order of the data.

    Args:
        folder: photos; WebDataset shards of photos with `txt`; or, without a file, photos beside a `.txt` each, in any
            depth. A `.txt` holds a caption a line.
        file: COCO's captions of the photos.
        cache: folder that shards are unpacked into.

    Raises:
        InputError: if there is no such photo, one is missing, or the file holds something else.
    """
    if holds_shards(folder):
        shards = find_shards(folder, f"{_KEY}.folder")
        folder = unpack_shards(shards, f"{_KEY}.folder", cache, _photo_and_text)
    place = Path(folder).expanduser()
    captioned = _of_text_files(place) if file is None else _of_coco(place, file)
    if not captioned:
        raise InputError(
            f"{_KEY}: expected photos with captions (COCO's JSON in file, a .txt beside each photo, shards with txt), "
            f"found none in {folder}"
        )
    return captioned


def _photo_and_text(sample: dict[str, Any], number: int) -> dict[str, bytes]:
    """A sample's photo and text as two files of one name."""
    files = photos_of(sample) | {"txt": sample["txt"]} if "txt" in sample else {}
    return {f"{number:08}.{suffix}": content for suffix, content in files.items()}


def _of_text_files(folder: Path) -> dict[Path, list[str]]:
    texts = {path: path.with_suffix(".txt") for path in photo_files(folder)}
    expected = f"{_KEY}.folder: expected a text file with a caption a line"
    captions = {path: read_lines(text, expected) for path, text in texts.items() if text.is_file()}
    return {path: lines for path, lines in captions.items() if lines}


def _of_coco(folder: Path, file: str | Path) -> dict[Path, list[str]]:
    content = read_coco(file, f"{_KEY}.file")
    try:
        paths = {image["id"]: folder / image["file_name"] for image in content["images"]}
        captions: dict[Any, list[str]] = {image: [] for image in paths}
        for entry in content["annotations"]:
            captions[entry["image_id"]].append(" ".join(entry["caption"].split()))
    except (LookupError, TypeError) as error:
        raise InputError(f"{_KEY}.file: expected images (id, file_name) of all captions in {file}") from error
    captioned = {paths[image]: texts for image, texts in captions.items() if texts}
    missing = [path for path in captioned if not path.is_file()]
    if missing:
        raise InputError(
            f"{_KEY}.folder: expected the {len(captioned)} photos of {file}, found no {missing[0]} and "
            f"{len(missing) - 1} others; give the folder of these photos"
        )
    return captioned
