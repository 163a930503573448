import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.data.people_shards import unpacked_people
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER


@pytest.fixture
def photo(write_photo, tmp_path: Path) -> bytes:
    """A photo's file."""
    return write_photo(tmp_path / "photo.png", 0).read_bytes()


def write_shard(path: Path, *samples: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with wds.writer.TarWriter(str(path)) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"{number:04}", **sample})
    return path


def composed(group: str, *overrides: str) -> People:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", overrides=["paths.run=run", f"{group}=webdataset", *overrides])
    return instantiate(cfg[group])


def test_names_come_from_json(photo: bytes, tmp_path: Path):
    shard = write_shard(
        tmp_path / "0.tar",
        {"png": photo, "json": {"name": "José Núñez", "age": 40}, "txt": "a man at the sea"},
        {"jpg": photo, "json": {"name": "Ann_Lee"}},
        {"webp": photo, "json": {"name": "José Núñez"}},
        {"json": {"name": "Nobody Here"}},
    )
    people = load_people(unpacked_people(shard, tmp_path / "cache"))
    assert {person.name: [path.suffix for path in person.photos] for person in people.everybody} == {
        "Ann Lee": [".jpg"],
        "José Núñez": [".png", ".webp"],
    }
    assert all(path.read_bytes() == photo for person in people.everybody for path in person.photos)


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_names_with_dots_lose_no_person_and_no_photo(photo: bytes, tmp_path: Path):
    files = {}
    for number, key in enumerate(["./a/ann.lee.0", "./a/ann.lee.1", "a/J. R. Ray", "b.c/cy", "ann.lee.0"]):
        files |= {f"{key}.PNG": photo, f"{key}.TXT": f"\ufeffPerson {number // 2}\r\n".encode()}
    files |= {"__MACOSX/a/._cy.png": photo, "a/.DS_Store": b""}
    people = load_people(unpacked_people(write_tar(tmp_path / "0.tar", files), tmp_path / "cache"))
    assert {person.name: len(person.photos) for person in people.everybody} == {
        "Person 0": 2,
        "Person 1": 2,
        "Person 2": 1,
    }
    assert people.remarks == ()


def test_names_in_text_of_other_encodings_are_read(photo: bytes, tmp_path: Path):
    shard = write_shard(
        tmp_path / "0.tar",
        {"png": photo, "txt": "José Núñez".encode("utf-16")},
        {"png": photo, "json": b'\xef\xbb\xbf{"name": "Jos\xc3\xa9 N\xc3\xba\xc3\xb1ez"}'},
    )
    (person,) = load_people(unpacked_people(shard, tmp_path / "cache")).everybody
    assert (person.name, len(person.photos)) == ("José Núñez", 2)


def test_samples_without_a_photo_are_told_each_time(photo: bytes, tmp_path: Path):
    shard = write_shard(tmp_path / "0.tar", {"png": photo, "txt": "Ann Lee"}, {"txt": "Bob Ray"}, {"xyz": photo})
    for _ in range(2):
        (remark,) = load_people(unpacked_people(shard, tmp_path / "cache")).remarks
        assert remark.startswith("people.folder.shards: 2 samples without a photo of a format that is read")
        assert f"0001 of {shard}, 0002 of {shard}; " in remark


def test_files_of_a_sample_that_lie_apart_are_an_error(photo: bytes, tmp_path: Path):
    shard = write_tar(tmp_path / "0.tar", {"a.png": photo, "b.png": photo, "a.txt": b"Ann Lee", "b.txt": b"Bob Ray"})
    with pytest.raises(InputError, match=r"got none in sample a of .*0\.tar; .* files of a sample lie side by side"):
        unpacked_people(shard, tmp_path / "cache")


def test_other_key_of_json_is_unpacked_to_other_people(photo: bytes, tmp_path: Path):
    shard = write_shard(
        tmp_path / "0.tar", {"jpg": photo, "json": {"name": "Ann Lee", "who": "Bob Ray"}, "txt": "Cy Fox"}
    )
    keys: list[str | None] = ["name", "who", None]
    names = [load_people(unpacked_people(shard, tmp_path / "cache", key)).names for key in keys]
    assert names == [["Ann Lee"], ["Bob Ray"], ["Cy Fox"]]


@pytest.mark.parametrize("group", ["people", "strangers"])
def test_names_come_from_text_and_equal_keys_of_several_shards_stay_apart(photo: bytes, tmp_path: Path, group: str):
    for number in range(3):
        write_shard(
            tmp_path / f"shards/{number}.tar", {"png": photo, "txt": "Ann Lee\n"}, {"png": photo, "txt": "Madonna"}
        )
    people = composed(group, f"{group}.folder.shards={tmp_path / 'shards'}", f"paths.cache={tmp_path / 'cache'}")
    assert {person.name: len(person.photos) for person in people.everybody} == {"Ann Lee": 3, "Madonna": 3}


def test_pattern_of_shards_and_limits_reach_the_people_through_the_config(photo: bytes, tmp_path: Path):
    write_shard(tmp_path / "shards/0.tar", {"png": photo, "txt": "Ann Lee"}, {"png": photo, "txt": "Bob Ray"})
    write_shard(tmp_path / "shards/1.tar", {"png": photo, "txt": "Ann Lee"})
    write_shard(tmp_path / "shards/2.tar", {"png": photo, "txt": "Bob Ray"})
    shards = f"people.folder.shards='{tmp_path}/shards/{{0..1}}.tar'"
    people = composed("people", shards, f"paths.cache={tmp_path / 'cache'}", "people.min_photos=2")
    assert people.names == ["Ann Lee"]


@pytest.mark.parametrize(
    "name",
    [
        "../Ann Lee",
        "..",
        "/etc/passwd",
        "Ann/Lee",
        "Ann\\Lee",
        ".hidden",
        "",
        "  ",
        "_",
        None,
        7,
        "x" * 300,
        "C:x",
        "\ud800x",
    ],
)
def test_name_that_is_no_folder_is_refused(photo: bytes, tmp_path: Path, name: Any):
    shard = write_shard(tmp_path / "0.tar", {"jpg": photo, "json": {"name": name}})
    with pytest.raises(InputError, match=r"name_key: expected a person's name, .* got .* in sample 0000 of .*0\.tar"):
        unpacked_people(shard, tmp_path / "cache")
    assert [path.name for path in tmp_path.rglob("*.jpg")] == []


@pytest.mark.parametrize(
    "sample",
    [{}, {"json": {"who": "Ann Lee"}}, {"json": "Ann Lee"}, {"json": b"{"}, {"json": b"\xff\xfe"}, {"txt": b"\xff"}],
)
def test_photo_without_a_name_is_an_error(photo: bytes, tmp_path: Path, sample: dict[str, Any]):
    content = {
        suffix: part if isinstance(part, bytes) else json.dumps(part).encode() for suffix, part in sample.items()
    }
    shard = write_shard(tmp_path / "0.tar", {"jpg": photo, **content})
    with pytest.raises(InputError, match=r"expected the name of the person as 'name' in json, .* in sample 0000 of"):
        unpacked_people(shard, tmp_path / "cache")


def test_no_shards_are_an_error_that_names_the_key(tmp_path: Path):
    with pytest.raises(InstantiationException, match=r"people\.folder\.shards: expected WebDataset shards"):
        composed("people", f"people.folder.shards={tmp_path}", f"paths.cache={tmp_path}")
