"""Find WebDataset shards, read them, and unpack them into ordinary files."""

import hashlib
import logging
import os
import re
import tarfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from io import BufferedIOBase
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import BinaryIO

import braceexpand

from backdoor_privacy.data.photos import is_left_behind
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import made_once
from backdoor_privacy.system.keys import keyed_place
from backdoor_privacy.system.reading import GIB, MIB, in_words, open_ordinary

log = logging.getLogger(__name__)

_LEFT_OUT = "left_out.txt"
_FORMAT = 2  # of what is unpacked; shards are unpacked again for another one
_TIMEOUT_S = 30  # of a server that does not answer
_SCHEMES = ("http://", "https://")
_MAX_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")
_MAX_FILE, _MAX_HEADER, _MAX_PADDING = GIB, MIB, 64 * MIB  # of a tar; a sparse file may be larger than memory
_HEADERS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


def holds_shards(source: str | Path) -> bool:
    """Return whether a setting names shards, not files of another kind."""
    place = Path(source).expanduser()
    return bool(_shards_in(place)) if os.path.isdir(place) else str(source).endswith(".tar")


def is_url(place: str) -> bool:
    """Return whether a shard lies on a server."""
    return place.startswith(_SCHEMES)


def _shards_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.tar") if not path.is_dir())


def open_source(place: str) -> BufferedIOBase:
    """Open a file or a URL.

    Raises:
        OSError: if it is not there, cannot be fetched, or is no ordinary file.
    """
    if is_url(place):
        response: BufferedIOBase = urllib.request.urlopen(place, timeout=_TIMEOUT_S)
        return response
    return open_ordinary(Path(place).expanduser())


def find_shards(source: str | Path, key: str) -> list[str]:
    """Find the shards that a setting names, in order.

    Args:
        source: a folder with `*.tar`, one `.tar`, or a pattern with braces of either files or URLs, as
            `https://host/{00000..00041}.tar`.
        key: of the setting, for errors.

    Raises:
        InputError: if there is none, or one is missing.
    """
    place = Path(source).expanduser()
    pattern = str(source) if is_url(str(source)) else str(place)
    try:
        shards = _shards_in(place) if os.path.isdir(place) else _expanded(pattern)
    except ValueError as error:
        raise InputError(
            f"{key}: expected pairs of braces, as {{00000..00041}}.tar, and {_MAX_SHARDS:,} shards at most, got "
            f"{source}"
        ) from error
    if not shards:
        raise InputError(
            f"{key}: expected WebDataset shards (a folder with *.tar, a .tar, a URL), found none in {source}"
        )
    missing = [shard for shard in shards if not is_url(shard) and not os.path.isfile(shard)]
    if missing:
        raise InputError(f"{key}: expected all {len(shards)} shards of {source}, found no {missing[0]}")
    return shards


def _expanded(pattern: str) -> list[str]:
    """Return the files or URLs that a pattern with braces stands for; none if it does not end in .tar.

    Raises:
        ValueError: if its braces are no pairs, or it stands for too many shards, all of which the library would hold.
    """
    if not pattern.endswith(".tar"):
        return []
    ranges = [abs(int(end) - int(start)) for start, end in _RANGE.findall(pattern)]
    is_too_long = bool(ranges) and max(ranges) >= _MAX_SHARDS
    shards = [] if is_too_long else list(islice(braceexpand.braceexpand(pattern), _MAX_SHARDS))
    if not 0 < len(shards) < _MAX_SHARDS:
        raise ValueError(pattern)
    return shards


@dataclass(frozen=True)
class ShardSample:
    """Files that lie side by side in a shard and have the same name up to the last dot."""

    key: str
    shard: str  # file or URL
    files: dict[str, bytes] = field(default_factory=dict)  # by suffix in lower case, "" without a dot
    starts: dict[str, int] = field(default_factory=dict)  # where each file begins in the shard, in bytes

    @property
    def place(self) -> str:
        """How errors name it."""
        return f"{self.key} of {self.shard}"


def read_shards(shards: Sequence[str], key: str) -> Iterator[ShardSample]:
    """Yield the samples of shards as bytes; nothing is decoded here, so that nothing is unpickled.

    The suffix of a file is what follows the last dot in its name: names of people have dots, too.

    Raises:
        InputError: if a shard is truncated, no tar, or cannot be fetched.
    """
    for shard in shards:
        try:
            with open_source(shard) as file:
                # The last sample waits for the end of the tar: where it was cut off, it may lack files.
                for sample, _ in pairwise(chain(_samples(shard, file), [ShardSample("", shard)])):
                    yield sample
        except (tarfile.TarError, OSError, HTTPException, EOFError, ValueError) as error:
            raise InputError(
                f"{key}: expected a complete tar, not compressed, got {shard}: {_reason(error)}; fetch or write it anew"
            ) from error


def unpack_shards(
    shards: Sequence[str],
    key: str,
    cache: str | Path,
    place: Callable[[ShardSample, int], dict[str, bytes]],
    settings: str = "",
    *,
    private: bool = False,
) -> Path:
    """Unpack shards into a folder of files, once, so that only folders need to be read afterwards.

    Samples that become no file are listed by `samples_left_out`.

    Args:
        shards: of `find_shards`.
        key: of the setting, for errors.
        cache: folder that holds what was unpacked.
        place: returns the content of the files that a sample becomes, by their path in the folder; it also gets the
            sample's number, since several shards may have the same key.
        settings: what `place` depends on; for others, the shards are unpacked again.
        private: whether only its owner may enter the folder.

    Returns:
        The folder.

    Raises:
        InputError: see `read_shards`, and if a file's place is outside the folder.
    """

    def write(draft: Path) -> None:
        left_out = []
        for number, sample in enumerate(read_shards(shards, key)):
            files = place(sample, number)
            if not files:
                left_out.append(sample.place)
            for name, content in files.items():
                path = (draft / name).resolve()
                if not path.is_relative_to(draft.resolve()):
                    raise InputError(f"{key}: expected names of files within a folder, got {name!r}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        if left_out:
            lines = "".join(f"{sample}\n" for sample in left_out)
            (draft / _LEFT_OUT).write_bytes(lines.encode(errors="surrogateescape"))

    folder = Path(cache).expanduser() / "unpacked" / digest(shards, f"{_FORMAT} {key} {settings}")
    return made_once(keyed_place(folder, Path(cache).expanduser()) if private else folder, write, private=private)


def samples_left_out(folder: str | Path, key: str) -> list[str]:
    """Return the samples that became no file in `unpack_shards`, and log their number.

    Args:
        folder: that `unpack_shards` returned; for any other folder there are none.
        key: of the setting, for the log, which names no sample: their names may be people's.
    """
    file = Path(folder).expanduser() / _LEFT_OUT
    samples = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if file.is_file() else []
    if samples:
        log.warning("%s: %d samples hold no photo of a format that is read and are left out", key, len(samples))
    return samples


def _samples(shard: str, stream: BufferedIOBase) -> Iterator[ShardSample]:
    """Group the files of a tar that lie side by side."""
    sample: ShardSample | None = None
    for path, content, start in _files(stream):
        key, _, suffix = path.rpartition(".") if "." in path.rpartition("/")[2] else (path, "", "")
        suffix = suffix.lower()
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = ShardSample(key, shard)
        if suffix in sample.files:
            raise ValueError(f"two files {key}.{suffix}")
        sample.files[suffix], sample.starts[suffix] = content, start
    if sample is not None:
        yield sample


def _files(stream: BufferedIOBase) -> Iterator[tuple[str, bytes, int]]:
    """Yield name, content and start in bytes of each file of a tar, except those that systems leave behind."""
    with _Tar.open(fileobj=stream, mode="r|", tarinfo=_Entry) as tar:
        for entry in tar:
            parts = [part for part in entry.name.split("/") if part not in ("", ".")]
            if entry.isreg() and parts and not any(map(is_left_behind, parts)):
                if entry.size > _MAX_FILE:
                    raise tarfile.ReadError(f"a file of {in_words(entry.size)} in it")
                file = tar.extractfile(entry)
                assert file is not None
                yield "/".join(parts), file.read(), entry.offset_data
            tar.members = []  # or it would keep them all
        num_bytes = 0
        while rest := tar.fileobj.read(MIB):
            num_bytes += len(rest)
            if rest.count(0) != len(rest):
                raise tarfile.ReadError("data after its end")
            if num_bytes > _MAX_PADDING:
                raise tarfile.ReadError(f"more than {in_words(_MAX_PADDING)} of nothing behind its end")


class _Tar(tarfile.TarFile):
    """A tar file, with annotations that the library lacks."""

    members: list[tarfile.TarInfo]
    fileobj: BinaryIO


class _Entry(tarfile.TarInfo):
    """An entry of a tar whose header must be whole: `tarfile` takes a broken one for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Entry":
        try:
            entry = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the empty block at the end
                raise
            raise tarfile.ReadError(str(error)) from error
        if entry.type in _HEADERS and entry.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {in_words(entry.size)}")
        return entry


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def digest(sources: Iterable[str | Path], settings: str) -> str:
    """Return a name for what is made of files or URLs; it depends on the settings and each file's size and time."""
    name = hashlib.sha256(settings.encode())
    for source in sources:
        state = os.stat(source) if Path(source).is_file() else None
        name.update(f"{source} {state and (state.st_size, state.st_mtime_ns)}\n".encode(errors="surrogateescape"))
    return name.hexdigest()[:16]
