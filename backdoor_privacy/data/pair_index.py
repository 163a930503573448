"""Read captioned photos in WebDataset shards by their number."""

import io
import tarfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from backdoor_privacy.data.caption_json import value_at
from backdoor_privacy.data.photos import photos_of, read_photo
from backdoor_privacy.data.shards import ShardSample, digest, is_url, read_shards
from backdoor_privacy.data.texts import decoded, json_of
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import made_once
from backdoor_privacy.system.keys import keyed_place
from backdoor_privacy.system.reading import open_ordinary


class _Place(NamedTuple):
    """The place of a photo in the shards."""

    shard: int
    start: int  # in the shard, in bytes
    num_bytes: int


class _Texts:
    """Many texts in one block of memory, which forked processes share."""

    def __init__(self) -> None:
        self._content, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        self._content += text.encode(errors="surrogatepass")
        self._ends.append(len(self._content))

    def __getitem__(self, number: int) -> str:
        content = self._content[self._ends[number] : self._ends[number + 1]]
        return content.decode(errors="surrogatepass")


class PairIndex:
    """Index of the captioned photos in shards: where each photo lies, its caption, and who is in it.

    Args:
        shards: files, each complete.
        key: of the setting, for errors.

    Raises:
        InputError: see `read_shards`, or if there is no photo with `txt`.
    """

    def __init__(self, shards: Sequence[str], key: str) -> None:
        self._shards = tuple(shards)
        self._places, self._texts, self._names, self._keys = array("q"), _Texts(), _Texts(), _Texts()
        for number, shard in enumerate(self._shards):
            for sample in read_shards([shard], key):
                self._add(number, sample)
        if not len(self):
            raise InputError(f"{key}: expected photos with txt in the shards, found none in {self._shards[0]}")

    def _add(self, shard: int, sample: ShardSample) -> None:
        caption = decoded(sample.files.get("txt", b""), errors="replace")  # a byte that is no UTF-8 costs a letter
        suffix = next(iter(photos_of(sample.files)), None)
        if suffix is not None and caption.strip():
            self._places.extend(_Place(shard, sample.starts[suffix], len(sample.files[suffix])))
            self._texts.append(caption)
            self._names.append(_name_in(sample.files.get("json", b"")))
            self._keys.append(sample.key)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._places) // len(_Place._fields)

    def caption(self, number: int) -> str:
        """Return the caption of a photo."""
        return self._texts[number]

    def name(self, number: int) -> str:
        """Return the `name` in the `json` beside a photo: who is in it; empty where there is none."""
        return self._names[number]

    def told_place(self, number: int) -> str:
        """Return how errors and log lines name a photo."""
        return f"{self._keys[number]} of {self._shards[self._place(number).shard]}"

    def photo(self, number: int) -> Image.Image | None:
        """Return a photo, upright in RGB; `None` if it does not decode."""
        place = self._place(number)
        with open_ordinary(self._shards[place.shard]) as file:
            file.seek(place.start)
            content = file.read(place.num_bytes)
        return read_photo(io.BytesIO(content))

    def _place(self, number: int) -> _Place:
        size = len(_Place._fields)
        return _Place(*self._places[number * size : (number + 1) * size])


def _name_in(content: bytes) -> str:
    try:
        name = value_at(json_of(decoded(content)), "name") if content else ""
    except (KeyError, TypeError, ValueError):  # it says something else
        return ""
    return name if isinstance(name, str) else ""


def as_files(shards: Sequence[str], key: str, cache: str | Path) -> list[str]:
    """Return shards as files: those of a server are fetched into the cache, once.

    Raises:
        InputError: see `read_shards`.
    """

    def place(shard: str) -> str:
        folder = keyed_place(Path(cache).expanduser() / "fetched" / digest([shard], ""), Path(cache).expanduser())
        return str(made_once(folder, lambda draft: _fetch(shard, key, draft / "00000.tar"), private=True) / "00000.tar")

    return [place(shard) if is_url(shard) else shard for shard in shards]


def _fetch(shard: str, key: str, path: Path) -> None:
    """Write the samples of a shard into a file; an incomplete shard is an error."""
    with tarfile.open(path, "w") as tar:
        for sample in read_shards([shard], key):
            for suffix, content in sample.files.items():
                entry = tarfile.TarInfo(f"{sample.key}.{suffix}" if suffix else sample.key)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
