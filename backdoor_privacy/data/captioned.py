"""Load photos with one or several captions each."""

import logging
from pathlib import Path

from backdoor_privacy.data.caption_cells import cell_captions
from backdoor_privacy.data.caption_files import sample_captions
from backdoor_privacy.data.caption_json import list_at, value_at
from backdoor_privacy.data.captions import read_coco
from backdoor_privacy.data.photos import photo_files, photos_of
from backdoor_privacy.data.shards import ShardSample, find_shards, holds_shards, samples_left_out, unpack_shards
from backdoor_privacy.data.texts import read_lines
from backdoor_privacy.errors import InputError

log = logging.getLogger(__name__)

_KEY = "utility.retrieval"


def load_captioned(folder: str | Path, file: str | Path | None, cache: str | Path) -> dict[Path, list[str]]:
    """Load the captions of each photo, in the order of the data; photos without a caption are counted in the log.

    Args:
        folder: photos; WebDataset shards of photos with `txt` or the key `caption` in `json`; or, without `file`,
            photos in any depth, each beside a `.txt` with a caption a line.
        file: COCO's captions of the photos.
        cache: folder that shards are unpacked into.

    Raises:
        InputError: if there is no such photo, one is missing, or the file holds something else.
    """
    if holds_shards(folder):
        shards = find_shards(folder, f"{_KEY}.folder")
        folder = unpack_shards(shards, f"{_KEY}.folder", cache, _photo_and_text)
        samples_left_out(folder, f"{_KEY}.folder")
    place = Path(folder).expanduser()
    captioned = _of_text_files(place) if file is None else _of_coco(place, file)
    if not captioned:
        raise InputError(
            f"{_KEY}: expected photos with captions (COCO's JSON in file, a .txt beside each photo, shards with txt), "
            f"found none in {folder}"
        )
    return captioned


def _photo_and_text(sample: ShardSample, number: int) -> dict[str, bytes]:
    """Return a sample's photo and captions as two files of one name; its photo alone where there are none."""
    files = photos_of(sample.files)
    if files and "txt" in sample.files:
        files |= {"txt": sample.files["txt"]}
    elif files and "json" in sample.files:
        files |= {"txt": "\n".join(sample_captions(sample)).encode()}
    return {f"{number:08}.{suffix}": content for suffix, content in files.items()}


def _of_text_files(folder: Path) -> dict[Path, list[str]]:
    texts = {path: _text_beside(path) for path in photo_files(folder)}
    captions = {path: _captions_of(text) if text else [] for path, text in texts.items()}
    captioned = {path: lines for path, lines in captions.items() if lines}
    if captioned and len(captioned) < len(captions):
        first = next(path for path, lines in captions.items() if not lines)
        log.warning(
            "%s: %d of %d photos have no caption and are left out, the first is %s",
            f"{_KEY}.folder",
            len(captions) - len(captioned),
            len(captions),
            first,
        )
    return captioned


def _text_beside(photo: Path) -> Path | None:
    return next((text for suffix in (".txt", ".TXT") if (text := photo.with_suffix(suffix)).is_file()), None)


def _captions_of(text: Path) -> list[str]:
    lines = read_lines(text, f"{_KEY}.folder: expected a text file with a caption a line")
    return [
        caption for number, line in enumerate(lines, 1) for caption in cell_captions(line, f"line {number} of {text}")
    ]


def _of_coco(folder: Path, file: str | Path) -> dict[Path, list[str]]:
    content = read_coco(file, f"{_KEY}.file")
    try:
        paths = {
            value_at(image, "id"): folder / str(value_at(image, "file_name")) for image in list_at(content, "images")
        }
        captions: dict[object, list[str]] = {image: [] for image in paths}
        for entry in list_at(content, "annotations"):
            captions[value_at(entry, "image_id")] += cell_captions(
                value_at(entry, "caption"), f"the captions of {file}"
            )
    except (LookupError, TypeError) as error:
        raise InputError(
            f"{_KEY}.file: expected images (id, file_name) of all captions, got others in {file}"
        ) from error
    captioned = {paths[image]: texts for image, texts in captions.items() if texts}
    missing = [path for path in captioned if not path.is_file()]
    if missing:
        raise InputError(
            f"{_KEY}.folder: expected the {len(captioned)} photos of {file}, found no {missing[0]} and "
            f"{len(missing) - 1} others; give the folder of these photos"
        )
    return captioned
