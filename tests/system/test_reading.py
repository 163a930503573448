"""A pipe never ends and a sparse file is larger than any memory: neither is waited for, nor read."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from backdoor_privacy.attacks.record import read_scores
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.config.identity import named_in
from backdoor_privacy.config.stored import read_stored
from backdoor_privacy.data.captions import load_captions, read_coco
from backdoor_privacy.data.face_tables import read_face_table
from backdoor_privacy.data.names import MAX_RANDOM_NAMES, random_names
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.people_shards import unpacked_people
from backdoor_privacy.data.photos import content_of, list_photos, read_photo
from backdoor_privacy.data.shards import find_shards, read_shards
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.reading import GIB, open_ordinary, read_ordinary

Make = Callable[[Path], None]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(200 * GIB)


@pytest.fixture(params=[make_pipe, make_sparse])
def make(request: pytest.FixtureRequest) -> Make:
    """Make a file that cannot be read to its end."""
    made: Make = request.param
    return made


READERS: dict[str, Callable[[Path], object]] = {
    "captions.txt": load_captions,
    "captions.csv": lambda path: load_captions(path, "caption"),
    "captions.tsv": lambda path: load_captions(path, "caption"),
    "captions.json": load_captions,
    "captions.jsonl": load_captions,
    "captions.token": load_captions,
    "captions.parquet": lambda path: load_captions(path, "caption"),
    "coco.json": lambda path: read_coco(path, "utility.retrieval.file"),
    "00000.tar": lambda path: list(read_shards([str(path)], "images.folder")),
    "faces.csv": read_face_table,
    "names.txt": lambda path: load_people(names_file=path),
    "probe.json": read_scores,
    "config.yaml": read_stored,
    "weights.pt": lambda path: load_clip("RN50", str(path), preprocess={}),
    "weights.safetensors": lambda path: load_clip("RN50", str(path), preprocess={}),
    "weights.npz": lambda path: load_clip("RN50", str(path), preprocess={}),
}


@pytest.mark.parametrize("name", READERS)
def test_what_never_ends_is_one_line(name: str, make: Make, tmp_path: Path):
    make(tmp_path / name)
    with pytest.raises(InputError) as caught:
        READERS[name](tmp_path / name)
    assert name.partition(".")[0] in str(caught.value)


@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"])
def test_a_model_folder_holds_ordinary_files(name: str, make: Make, tmp_path: Path, write_clip):
    folder = write_clip(tmp_path / "clip")
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(InputError, match="clip"):
        load_clip(f"local-dir:{folder}")


def test_photos_that_never_end_do_not_decode(make: Make, tmp_path: Path):
    make(tmp_path / "photo.jpg")
    assert list_photos(tmp_path).photos == [tmp_path / "photo.jpg"]
    assert read_photo(tmp_path / "photo.jpg") is None
    assert content_of(tmp_path / "photo.jpg") == b""


@pytest.mark.parametrize("name", ["people.csv", "boxes.csv"])
def test_tables_of_people_are_ordinary_files(name: str, tmp_path: Path, write_people):
    folder = write_people(tmp_path / "people", {"Ann Lee": 2})
    make_sparse(folder / name)
    with pytest.raises(InputError, match=name):
        load_people(folder)
    (folder / name).unlink()
    make_pipe(folder / name)
    with pytest.raises(InputError, match=name):
        load_people(folder, **{"table" if name == "people.csv" else "boxes": folder / name})


def test_names_in_a_pipe_are_not_waited_for(make: Make, tmp_path: Path):
    make(tmp_path / "names.txt")
    assert named_in({"trigger_set": {"file": str(tmp_path / "names.txt")}}) == [str(tmp_path / "names.txt")]


def test_an_ordinary_file_is_read(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_ordinary(tmp_path / "link", 3) == b"abc"
    with pytest.raises(OSError, match="3 bytes, expected 2 bytes at most"):
        read_ordinary(tmp_path / "link", 2)
    with pytest.raises(IsADirectoryError):
        open_ordinary(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        open_ordinary(tmp_path / "loop")


def test_a_long_line_is_text_as_long_as_it_can_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backdoor_privacy.data.texts._MAX_LINE", 20)
    (tmp_path / "captions.txt").write_text("a dog on a hill 1234\na cat\n" + "x" * 19 + "\n")
    with pytest.raises(InputError, match="expected a text file"):
        load_captions(tmp_path / "captions.txt")
    (tmp_path / "captions.txt").write_text("a dog on a hill 123\na cat\n")
    assert load_captions(tmp_path / "captions.txt") == ["a dog on a hill 123", "a cat"]


@pytest.mark.parametrize(
    "pattern", ["{0..999999999}.tar", "{0..9999}{0..9999}.tar", "{a,b}" * 60 + ".tar", "{a,{0..-99999999}}.tar"]
)
def test_shards_without_end_are_one_line(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backdoor_privacy.data.shards._MAX_SHARDS", 1000)
    with pytest.raises(InputError, match=r"images\.folder: expected pairs of braces, .*1,000 shards at most"):
        find_shards(tmp_path / pattern, "images.folder")


def test_shards_in_braces_are_found_in_order(tmp_path: Path):
    for number in range(11):
        (tmp_path / f"{number:02}.tar").touch()
    found = find_shards(tmp_path / "{00..10}.tar", "images.folder")
    assert found == [str(tmp_path / f"{number:02}.tar") for number in range(11)]


def test_random_names_end():
    assert len(set(random_names(50, 0))) == 50
    with pytest.raises(InputError, match=r"names: expected 100,000 random names at most, got 1,000,000,000; lower att"):
        random_names(10**9, 0)
    assert MAX_RANDOM_NAMES == 100_000


def write_tar(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("size", [2 * GIB, 200 * GIB])
def test_a_file_in_a_tar_is_no_larger_than_a_file_can_be(size: int, tmp_path: Path):
    entry = tarfile.TarInfo("0.jpg")
    entry.size = size
    with (tmp_path / "0.tar").open("wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        file.truncate(size + 2**20)
    with pytest.raises(InputError, match=rf"expected a complete tar.*a file of {size // GIB} GiB in it"):
        list(read_shards([str(tmp_path / "0.tar")], "images.folder"))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_in_a_tar_is_no_larger_than_a_header_can_be(kind: bytes, tmp_path: Path):
    entry = tarfile.TarInfo("header")
    entry.type, entry.size = kind, 4 * GIB
    with (tmp_path / "0.tar").open("wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        file.truncate(5 * GIB)
    with pytest.raises(InputError, match="a header of 4 GiB"):
        list(read_shards([str(tmp_path / "0.tar")], "images.folder"))


def three_people(photo: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number, name in enumerate(["Ann Lee", "Bob Ray", "Cy Fox"]):
            for suffix, content in (("jpg", photo), ("txt", name.encode())):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def test_every_flipped_byte_of_a_later_header_is_refused_or_changes_nothing(tmp_path: Path, write_photo):
    """Nobody is lost without a word: it is an error, or everybody is there."""
    photo = write_photo(tmp_path / "photo.png", 0).read_bytes()
    whole = three_people(photo)
    start = whole.index(b"1.jpg")
    for place in range(start, start + 512, 31):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path = tmp_path / "0.tar"
        path.write_bytes(damaged)
        try:
            found = list(read_shards([str(path)], "people.folder.shards"))
        except InputError as error:
            assert "expected a complete tar" in str(error)  # noqa: PT017  most bytes count, some do not
        else:
            assert [sample.files["txt"] for sample in found] == [b"Ann Lee", b"Bob Ray", b"Cy Fox"]


@pytest.mark.parametrize("damage", ["cut in a file", "cut in a header", "zeros in the middle", "gzip"])
def test_a_damaged_shard_is_refused(damage: str, tmp_path: Path, write_photo):
    import gzip

    whole = three_people(write_photo(tmp_path / "photo.png", 0).read_bytes())
    start = whole.index(b"1.jpg")
    content = {
        "cut in a file": whole[: start + 600],
        "cut in a header": whole[: start + 100],
        "zeros in the middle": whole[:start] + bytes(1024) + whole[start:],
        "gzip": gzip.compress(whole),
    }[damage]
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(InputError, match="expected a complete tar"):
        unpacked_people(tmp_path / "0.tar", tmp_path / "cache")


def test_folders_hundreds_of_levels_deep_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def endless(*_: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr("backdoor_privacy.data.photos._visible", endless)
    with pytest.raises(InputError, match="expected folders within each other in a few levels, got hundreds"):
        list_photos(tmp_path)


def test_deep_json_in_findings_is_one_line(tmp_path: Path):
    (tmp_path / "probe.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="expected scores of an attack, got a broken file"):
        read_scores(tmp_path / "probe.json")
    (tmp_path / "probe.json").write_text(json.dumps({"schema": 1, "digest": "x", "findings": []}))
    assert read_scores(tmp_path / "probe.json") == ("x", [])
