"""Give WebDataset shards of people, captions and photos, whole and damaged."""

import gzip
import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.images import read_images
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.people_shards import unpacked_people
from fuzz.cases import REFUSED, UNKNOWN, Case
from fuzz.names import normal
from fuzz.world import picture

_NAMES = ("Ann Lee", "Bob_Ray", "Zoë O'Hara", "J. R. Smith", "李 小明", "Ann-Sophie von der Tann", "Doe, Jane", "Ed=1")
_KEYS = ("{}", "a.b.{}", "part/{}", "./{}", "x y {}", "ä{}", "0000{}", "a/b/c.{}", "-{}", "caption.v1.{}")
_CAPTIONS = (
    "a dog on a beach", "two trams, one red", 'the "best" cake', "ein Bär im Wald", "山の上の犬", "it's [old]",
    "tab\there", "a\nb",
    "5 cups", "x" * 300, "emoji 🦊 here", "semi; colon | bar",
)  # fmt: skip
Files = list[tuple[str, bytes]]


def _png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number, 9, 7)).save(file, "PNG")
    return file.getvalue()


def _tar(files: Sequence[tuple[str, bytes]], rng: random.Random) -> bytes:
    file = io.BytesIO()
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form, encoding="utf-8") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def make(folder: Path, rng: random.Random) -> Case:
    """Write a shard, whole or damaged."""
    kind = rng.choice(("people", "people", "captions", "images"))
    files, contents = {"people": _people, "captions": _captions, "images": _images}[kind](rng)
    way = rng.choice(["whole"] * 6 + list(_DAMAGES))
    path = folder / rng.choice(("00000.tar", "a b.tar", "ä.tar", "shard-{x}.tar"[:5] + ".tar"))
    content, answer = _tar(files, rng), "read"
    if way != "whole":
        content, answer = _DAMAGES[way](content, files, folder, rng)
    path.write_bytes(content)
    expected = contents if answer != "unknown" else UNKNOWN
    allowed: Any = {"unknown": "either"}.get(answer, answer)
    blames = ("folder.shards", "captions.file", "images.folder", "people.folder", "captions.column", path.name)
    source = path.parent if rng.random() < 0.3 else path

    def read() -> Any:
        return _READERS[kind](source, folder / "out")

    return Case(f"{kind} in a shard, {way}, {[name for name, _ in files][:4]}", read, expected, allowed, blames)


def _people(rng: random.Random) -> tuple[Files, Any]:
    files, photos_of = [], dict[str, list[bytes]]()
    form, key = rng.choice(("json", "txt", "bom")), rng.choice(_KEYS)
    for number in range(rng.randint(1, 6)):
        name, photo = rng.choice(_NAMES), _png(rng.randrange(1000))
        stem = key.format(number)
        text = {
            "json": json.dumps({"name": name, "caption": "x"}, ensure_ascii=rng.random() < 0.5).encode(),
            "txt": f"{name}\n".encode(),
            "bom": b"\xef\xbb\xbf" + name.encode() + b"\r\n",
        }[form]
        both = [
            (f"{stem}.{rng.choice(('png', 'PNG', 'jpg'))}", photo),
            (f"{stem}.{'json' if form == 'json' else 'txt'}", text),
        ]
        files += both[:: rng.choice((1, -1))]
        photos_of.setdefault(normal(name), []).append(photo)
    return files, {name: sorted(photos) for name, photos in photos_of.items()}


def _captions(rng: random.Random) -> tuple[Files, Any]:
    files, lines, key = [], [], rng.choice(_KEYS)
    form = rng.choice(("txt", "json", "list"))
    for number in range(rng.randint(1, 6)):
        some = [rng.choice(_CAPTIONS) for _ in range(rng.randint(1, 3) if form == "list" else 1)]
        text = some[0] if form == "txt" else json.dumps({"caption": some if form == "list" else some[0]})
        files += [(f"{key.format(number)}.{'txt' if form == 'txt' else 'json'}", text.encode())]
        lines += [" ".join(one.split()) for one in some]
    return files, lines


def _images(rng: random.Random) -> tuple[Files, Any]:
    key, numbers = rng.choice(_KEYS), [rng.randrange(1000) for _ in range(rng.randint(1, 5))]
    files = [
        (f"{key.format(place)}.{rng.choice(('png', 'jpg', 'webp'))}", _png(one)) for place, one in enumerate(numbers)
    ]
    return files, [picture(one, 9, 7).tolist() for one in numbers]


def _read_people(source: Path, out: Path) -> Any:
    people = load_people(unpacked_people(source, out / "cache" / "deep")).everybody
    return {person.name: sorted(path.read_bytes() for path in person.photos) for person in people}


def _read_images(source: Path, out: Path) -> Any:
    photos = [photo for _, photo in read_images(source, 100)]
    return REFUSED if None in photos or not photos else [np.asarray(photo).tolist() for photo in photos]


_READERS = {"people": _read_people, "captions": lambda source, _: load_captions(source), "images": _read_images}


def _cut(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    end = len(content.rstrip(b"\0"))
    return content[: rng.randrange(end)], "refused"


def _flipped_header(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    damaged = bytearray(content)
    starts = [place for place in range(0, len(content), 512) if content[place + 257 : place + 262] == b"ustar"]
    damaged[rng.choice(starts) + rng.randrange(500)] ^= 1 << rng.randrange(8)
    return bytes(damaged), "either"


def _flipped(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 4))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged), "unknown"


def _packed(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    return gzip.compress(content), "refused"


def _no_tar(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    return rng.choice(
        (b"", b"<html>404</html>", rng.randbytes(3000), bytes(10240), b"PK\x03\x04" + bytes(600))
    ), "refused"


def _outside(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    stem = rng.choice(("../../../escaped", f"{folder}/escaped", "a/../../../../escaped", "..\\..\\escaped", "a/./../b"))
    return _tar([(f"{stem}.png", _png(0)), (f"{stem}.txt", b"Eve Outside"), *files], rng), "unknown"


def _name_outside(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    name = rng.choice(
        ("../../escaped", "/etc/escaped", "..", ".", "a/../../b", "\x1b[2Jx", "a\nb", "", "x" * 300, "a\0b")
    )
    return _tar([("0.png", _png(0)), ("0.txt", name.encode()), *files], rng), "unknown"


def _links(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    """Add links, devices and pipes, which are no samples."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            entry = tarfile.TarInfo(f"link{kind.decode()}.png")
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue(), "read"


def _twice(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    return _tar([files[0], *files], rng), "refused"


def _left_behind(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    """Add the files that macOS adds to an archive."""
    return _tar([("__MACOSX/._0.png", b"x"), ("._0.png", b"x"), (".DS_Store", b"x"), *files], rng), "read"


def _without_end(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    """Leave out the empty blocks at the end."""
    return content.rstrip(b"\0")[:-1], "refused"


def _odd_text(content: bytes, files: Files, folder: Path, rng: random.Random) -> tuple[bytes, str]:
    text = rng.choice(
        (
            b"\xff\xfe",
            b"[" * 100_000,
            b"{}",
            b"null",
            b'{"name": 5, "caption": 5}',
            b"{",
            b"\x00\x00",
            b'{"name": "\\ud800x"}',
            b"[1]",
        )
    )
    return _tar([("0.png", _png(0)), (rng.choice(("0.json", "0.txt")), text), *files], rng), "unknown"


_DAMAGES = {
    "cut off": _cut, "a flipped header": _flipped_header, "flipped bits": _flipped, "gzip": _packed, "no tar": _no_tar,
    "places outside": _outside, "names of places outside": _name_outside, "links": _links, "a file twice": _twice,
    "files of systems": _left_behind, "without its end": _without_end, "odd text": _odd_text,
}  # fmt: skip
