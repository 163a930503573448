import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import webdataset as wds

from backdoor_privacy.data import shards
from backdoor_privacy.data.captioned import load_captioned
from backdoor_privacy.data.shards import ShardSample, find_shards, holds_shards, read_shards, unpack_shards
from backdoor_privacy.errors import InputError


def write_shard(path: Path, first: int, num_samples: int = 3) -> Path:
    with wds.writer.TarWriter(str(path)) as writer:
        for number in range(first, first + num_samples):
            writer.write({"__key__": f"{number:04}", "jpg": bytes([number]) * 700, "txt": f"photo {number}"})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of three samples."""
    (tmp_path / "shards").mkdir()
    for number in range(2):
        write_shard(tmp_path / f"shards/{number:05}.tar", 3 * number)
    return tmp_path / "shards"


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the folder's files."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{web.server_address[1]}"
        web.shutdown()
        thread.join()


def texts(paths: list[str]) -> list[str]:
    return [sample.files["txt"].decode() for sample in read_shards(paths, "key")]


def test_shards_are_found_by_folder_file_pattern_and_url(folder: Path):
    paths = [str(folder / f"{number:05}.tar") for number in range(2)]
    assert find_shards(folder, "key") == find_shards(f"{folder}/{{00000..00001}}.tar", "key") == paths
    assert find_shards(paths[1], "key") == [paths[1]]
    urls = [f"https://host/{number}.tar" for number in "ab"]
    assert find_shards("https://host/{a,b}.tar", "key") == urls
    assert holds_shards(folder)
    assert holds_shards("https://host/{a,b}.tar")
    assert not holds_shards(folder.parent)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", r"key: expected WebDataset shards .*, found none in "),
        ("nowhere", r"key: expected WebDataset shards .*, found none in "),
        ("shards/{00000..00003}.tar", r"key: expected all 4 shards of .*, found no .*00002\.tar"),
        ("shards/{00000..00003.tar", r"key: expected pairs of braces, .*, got "),
    ],
)
def test_shards_that_are_not_there_are_an_error(folder: Path, source: str, message: str):
    with pytest.raises(InputError, match=message):
        find_shards(folder.parent / source, "key")


def test_samples_come_in_order_and_undecoded(folder: Path):
    samples = list(read_shards(find_shards(folder, "key"), "key"))
    assert [sample.key for sample in samples] == [f"{number:04}" for number in range(6)]
    assert samples[4].files["jpg"] == bytes([4]) * 700
    assert samples[4].shard == str(folder / "00001.tar")


@pytest.mark.parametrize("size", [*range(0, 8192, 500), 1536, 1537, 3072, 3500, 6144, 9216])
def test_shard_that_was_cut_off_anywhere_is_an_error(folder: Path, size: int):
    path = folder / "00001.tar"
    whole = path.read_bytes()
    assert len(whole) > 9216 + 512
    path.write_bytes(whole[:size])
    with pytest.raises(InputError, match=rf"^key: expected a complete tar.* {path}: [a-z ]+; fetch or write it anew$"):
        texts(find_shards(folder, "key"))


def test_file_that_is_no_tar_is_an_error(folder: Path):
    (folder / "00000.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(InputError, match=r"key: expected a complete tar.*00000\.tar"):
        texts(find_shards(folder, "key"))


@pytest.mark.parametrize("file", ["0001.jpg", "0001.txt", "0002.txt"])
@pytest.mark.parametrize("place", [0, 124, 150])
def test_broken_header_anywhere_is_an_error(tmp_path: Path, file: str, place: int):
    path = write_shard(tmp_path / "0.tar", 0)
    content = bytearray(path.read_bytes())
    content[content.index(file.encode()) + place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"^key: expected a complete tar, .*0\.tar: bad checksum; fetch"):
        texts([str(path)])


def test_empty_header_midway_and_a_second_tar_behind_are_errors(tmp_path: Path):
    path = write_shard(tmp_path / "0.tar", 0)
    whole = path.read_bytes()
    start = whole.index(b"0001.txt")
    for content in (whole[:start] + bytes(512) + whole[start + 512 :], whole + whole):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"0\.tar: (data after its end|end of file header); fetch"):
            texts([str(path)])


def test_tar_of_another_writer_is_read(tmp_path: Path):
    for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT), ("ustar", tarfile.USTAR_FORMAT)):
        with tarfile.open(tmp_path / f"{name}.tar", "w", format=form) as tar:
            entry = tarfile.TarInfo("one.txt")
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"two"))
        assert texts([str(tmp_path / f"{name}.tar")]) == ["two"]


def test_shards_come_from_a_url(server: str):
    assert texts(find_shards(f"{server}/{{00000..00001}}.tar", "key")) == [f"photo {number}" for number in range(6)]


def test_url_that_gives_half_a_shard_is_an_error(server: str, folder: Path):
    path = folder / "00001.tar"
    path.write_bytes(path.read_bytes()[:3072])
    with pytest.raises(InputError, match=rf"key: .*{server}/00001\.tar: [a-z ]+; fetch"):
        texts([f"{server}/00001.tar"])


def test_url_without_a_shard_is_an_error(server: str):
    with pytest.raises(InputError, match=rf"key: .*{server}/00009\.tar: HTTP Error 404: File not found; fetch"):
        texts([f"{server}/00009.tar"])


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "is silent"])
def test_url_that_does_not_answer_is_an_error_soon(monkeypatch: pytest.MonkeyPatch, listens: bool):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(shards, "_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        reason = "timed out" if listens else "Connection refused"
        start = time.perf_counter()
        with pytest.raises(InputError, match=rf"key: .*/0\.tar: .*{reason}.*; fetch or write it anew"):
            texts([f"http://127.0.0.1:{silent.getsockname()[1]}/0.tar"])
        assert time.perf_counter() - start < 5


def by_text(sample: ShardSample, number: int) -> dict[str, bytes]:
    return {f"{sample.files['txt'].decode()}/{number:04}.jpg": sample.files["jpg"]}


def test_shards_are_unpacked_once(folder: Path, tmp_path: Path):
    unpacked = unpack_shards(find_shards(folder, "key"), "key", tmp_path / "cache", by_text)
    assert (unpacked / "photo 4/0004.jpg").read_bytes() == bytes([4]) * 700
    assert len(list(unpacked.rglob("*.jpg"))) == 6
    again = unpack_shards(find_shards(folder, "key"), "key", tmp_path / "cache", lambda *_: pytest.fail("read again"))
    assert again == unpacked
    assert list(unpacked.parent.iterdir()) == [unpacked]


def test_shards_are_unpacked_anew_for_other_content_another_use_and_other_settings(folder: Path, tmp_path: Path):
    def unpack(key: str = "key", settings: str = "") -> Path:
        return unpack_shards(find_shards(folder, "key"), key, tmp_path / "cache", by_text, settings)

    unpacked = [unpack(), unpack(key="other"), unpack(settings="a"), unpack(settings="b")]
    write_shard(folder / "00000.tar", 20)
    unpacked.append(unpack())
    assert len(set(unpacked)) == 5
    assert (unpacked[-1] / "photo 20/0000.jpg").is_file()


def test_broken_shard_leaves_nothing_unpacked(folder: Path, tmp_path: Path):
    path = folder / "00001.tar"
    path.write_bytes(path.read_bytes()[:3072])
    with pytest.raises(InputError, match=r"00001\.tar: [a-z ]+; fetch"):
        unpack_shards(find_shards(folder, "key"), "key", tmp_path / "cache", by_text)
    assert list((tmp_path / "cache/unpacked").iterdir()) == []


@pytest.mark.parametrize("name", ["../../escaped.jpg", "/tmp/escaped.jpg"])
def test_place_outside_the_folder_is_an_error(folder: Path, tmp_path: Path, name: str):
    with pytest.raises(
        InputError, match=rf"key: expected names of files within a folder, got {json.dumps(name)[1:-1]!r}"
    ):
        unpack_shards(
            find_shards(folder, "key"), "key", tmp_path / "cache", lambda sample, _: {name: sample.files["jpg"]}
        )
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_a_folder_called_as_a_shard_holds_photos(tmp_path: Path):
    (tmp_path / "x.tar").mkdir()
    assert not holds_shards(tmp_path)
    assert not holds_shards(tmp_path / "x.tar")


def test_files_without_a_suffix_are_samples_without_a_photo(tmp_path: Path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.b/lone", "a.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    samples = list(read_shards([str(tmp_path / "0.tar")], "images.folder"))
    assert [(sample.key, *sample.files) for sample in samples] == [("a.b/lone", ""), ("a", "jpg")]


def test_samples_without_a_photo_are_counted_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.jpg", "a.txt", "b.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 5
            tar.addfile(entry, io.BytesIO(b"a dog"))
    captioned = load_captioned(tmp_path, None, tmp_path / "cache")
    assert list(captioned.values()) == [["a dog"]]
    assert "utility.retrieval.folder: 1 samples hold no photo" in caplog.text
