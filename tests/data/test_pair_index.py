import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from backdoor_privacy.data import pair_index
from backdoor_privacy.data.pair_index import PairIndex, as_files
from backdoor_privacy.data.shards import read_shards
from backdoor_privacy.errors import InputError


def png(colour: int = 0) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 4), (colour, 0, 0)).save(encoded, "PNG")
    return encoded.getvalue()


def write_shard(path: Path, *samples: dict[str, Any]) -> str:
    with wds.writer.TarWriter(str(path)) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{path.stem}-{number}", **sample})
    return str(path)


def test_photos_are_read_by_their_number(tmp_path: Path):
    shards = [
        write_shard(
            tmp_path / f"{shard}.tar", *({"png": png(10 * shard + one), "txt": f"{shard} {one}"} for one in range(3))
        )
        for shard in range(2)
    ]
    pairs = PairIndex(shards, "key")
    assert len(pairs) == 6
    for number in (5, 0, 3):
        shard, one = divmod(number, 3)
        photo = pairs.photo(number)
        assert photo is not None
        assert (photo.size, np.asarray(photo)[0, 0].tolist()) == ((8, 4), [10 * shard + one, 0, 0])
        assert pairs.caption(number) == f"{shard} {one}"
        assert pairs.told_place(number) == f"{shard}-{one} of {shards[shard]}"


def test_what_is_no_photo_with_a_text_is_left_out(tmp_path: Path):
    samples: list[dict[str, Any]] = [
        {"png": png(), "txt": "whole", "pickle": b"not read"},
        {"png": png()[:30], "txt": "truncated"},
        {"png": png()},
        {"png": png(), "txt": " "},
        {"txt": "no photo"},
        {"png": png(), "txt": "caf\xe9".encode("latin-1")},
    ]
    pairs = PairIndex([write_shard(tmp_path / "0.tar", *samples)], "key")
    captions = [pairs.caption(number) for number in range(len(pairs))]
    assert captions == ["whole", "truncated", "caf\N{REPLACEMENT CHARACTER}"]
    assert [pairs.photo(number) is None for number in range(3)] == [False, True, False]


def test_who_is_in_a_photo_stands_beside_it(tmp_path: Path):
    told: list[object] = [{"name": "Ann Lee"}, {"name": 5}, {"caption": "x"}, [1], "Bob"]
    samples = [{"png": png(), "txt": "x", "json": json.dumps(one).encode()} for one in told]
    samples += [{"png": png(), "txt": "x"}, {"png": png(), "txt": "x", "json": b"{"}]
    pairs = PairIndex([write_shard(tmp_path / "0.tar", *samples)], "key")
    assert [pairs.name(number) for number in range(len(pairs))] == ["Ann Lee", *[""] * 6]


def test_shards_without_a_pair_are_an_error(tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", {"png": png()})
    with pytest.raises(InputError, match=r"^key: expected photos with txt in the shards, found none in .*0\.tar$"):
        PairIndex([shard], "key")


@pytest.mark.parametrize("cut", [512, 2048, 2560])  # within a file, and between two
def test_shard_that_was_cut_off_is_an_error(tmp_path: Path, cut: int):
    shard = write_shard(tmp_path / "0.tar", *({"png": png(), "txt": "text"} for _ in range(3)))
    Path(shard).write_bytes(Path(shard).read_bytes()[:cut])
    with pytest.raises(InputError, match=r"^key: expected a complete tar, .*0\.tar: .*; fetch or write it anew$"):
        PairIndex([shard], "key")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is fetched of a server that has one shard."""
    here = write_shard(tmp_path / "here.tar", *({"png": png(one), "txt": f"text {one}"} for one in range(3)))
    fetched: list[str] = []

    def fetch(shards: list[str], key: str) -> Any:
        fetched.extend(shards)
        yield from read_shards([here], key)

    monkeypatch.setattr(pair_index, "read_shards", fetch)
    return fetched


def test_shards_of_a_server_are_fetched_once(server: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = as_files(["https://host/0.tar", "0.tar"], "key", tmp_path / "cache")
    assert files == as_files(["https://host/0.tar", "0.tar"], "key", tmp_path / "cache")
    assert server == ["https://host/0.tar"]
    assert files[1] == "0.tar"
    assert "host" not in files[0]
    monkeypatch.undo()
    pairs = PairIndex(files[:1], "key")
    assert [pairs.caption(number) for number in range(3)] == ["text 0", "text 1", "text 2"]
    assert np.asarray(pairs.photo(2))[0, 0, 0] == 2


def test_shard_that_does_not_come_as_a_whole_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fetch(shards: list[str], key: str) -> Any:
        yield from read_shards([write_shard(tmp_path / "here.tar", {"png": png(), "txt": "text"})], key)
        raise InputError("key: timed out")

    monkeypatch.setattr(pair_index, "read_shards", fetch)
    with pytest.raises(InputError, match="timed out"):
        as_files(["https://host/0.tar"], "key", tmp_path / "cache")
    assert list((tmp_path / "cache/fetched").iterdir()) == []
