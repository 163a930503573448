import os
from pathlib import Path

import pytest

from backdoor_privacy.data.inspection import shared_photos
from backdoor_privacy.data.people import load_people
from backdoor_privacy.data.photos import content_of, list_photos, photo_files, photos_of, read_photo
from backdoor_privacy.errors import InputError

LATIN_1 = os.fsdecode(b"Jos\xe9.jpg")


def names(folder: Path, depth: int | None = None) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in photo_files(folder, depth)]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_photos_of_every_suffix_are_listed_and_the_rest_is_counted(tmp_path: Path):
    photos = ["a.JPG", "b.jfif", "c.tif", "d.gif", "e.avif", "f.heic", "g.HEIC", "h.webp", "i.ppm", "j.apng"]
    touch(*(tmp_path / name for name in photos), *(tmp_path / name for name in ("k.mov", "l.MOV", "m.eps", "n", ".o")))
    assert names(tmp_path) == photos
    assert list_photos(tmp_path).left_out == {".mov": 2, ".eps": 1, "no suffix": 1}


def test_depth_says_which_folders_are_read(tmp_path: Path):
    touch(tmp_path / "0.jpg", tmp_path / "a/1.jpg", tmp_path / "a/b/2.jpg", tmp_path / ".hidden/3.jpg")
    assert names(tmp_path) == ["0.jpg", "a/1.jpg", "a/b/2.jpg"]
    assert names(tmp_path, 1) == ["0.jpg"]
    assert names(tmp_path, 2) == ["a/1.jpg"]
    assert names(tmp_path / "nowhere") == []


def test_linked_folders_are_followed_once_and_never_around(tmp_path: Path):
    photos = tmp_path / "photos"
    touch(photos / "0.jpg", tmp_path / "elsewhere/deep/1.jpg", tmp_path / "private/2.jpg")
    (photos / "link").symlink_to(tmp_path / "elsewhere")
    (photos / "same").symlink_to(tmp_path / "elsewhere")
    (photos / "self").symlink_to(photos)
    (photos / "up").symlink_to(tmp_path)  # with what is private
    (tmp_path / "elsewhere/deep/around").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/further").symlink_to(tmp_path)
    assert names(photos) == ["0.jpg", "link/deep/1.jpg"]


def test_what_is_no_file_is_listed_and_does_not_decode(write_photo, tmp_path: Path):
    write_photo(tmp_path / "album.jpg/0.jpg", 0)  # a folder like any other
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert names(tmp_path) == [
        "album.jpg/0.jpg", "dangling.jpg", "device.jpg", "empty.jpg", "folder.jpg", "loop.jpg", "pipe.jpg",
    ]  # fmt: skip
    readable = [path.name for path in photo_files(tmp_path) if read_photo(path) is not None]
    assert readable == ["0.jpg"]
    assert {content_of(path) for path in photo_files(tmp_path)[1:]} == {b""}


def test_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputError, match=r"expected a folder that may be read, got Permission denied"):
        list_photos(tmp_path)


def test_samples_of_a_shard_hold_photos_of_every_suffix():
    sample = {"jpeg": b"1", "JPG": b"2", "jfif": b"3", "heic": b"4", "json": b"", "cls": b"0"}
    assert photos_of(sample) == {"jpeg": b"1", "JPG": b"2", "jfif": b"3", "heic": b"4"}


def test_people_have_photos_of_every_suffix_and_the_rest_is_told(write_photo, tmp_path: Path):
    for number, suffix in enumerate(("jpg", "jfif", "tif", "gif", "avif")):
        write_photo(tmp_path / f"Ann_Lee/{number}.{'jpg' if suffix == 'jfif' else suffix}", number)
    (tmp_path / "Ann_Lee/0.jpg").rename(tmp_path / "Ann_Lee/0.jfif")
    touch(tmp_path / "Ann_Lee/film.mov", tmp_path / "Bob_Ray/0.cr2", tmp_path / "Bob_Ray/1.cr2")
    (tmp_path / "Cleo_Diaz").mkdir()
    people = load_people(tmp_path)
    assert people.names == ["Ann Lee"]
    assert len(people.everybody[0].photos) == 5
    assert people.left_out == {"Ann Lee": {".mov": 1}, "Bob Ray": {".cr2": 2}, "Cleo Diaz": {}}


def test_nobody_with_a_photo_is_an_error_that_says_what_there_is(tmp_path: Path):
    touch(tmp_path / "Bob_Ray/0.cr2", tmp_path / "Bob_Ray/1.cr2")
    with pytest.raises(InputError, match=r"found none but \.cr2 \(2\); save them in a format of"):
        load_people(tmp_path)


def test_files_that_cannot_be_read_are_not_the_same_photo_of_two_people(tmp_path: Path):
    for name in ("Ann_Lee", "Bob_Ray"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert not shared_photos(load_people(tmp_path).everybody)


def test_names_in_latin_1_are_read(write_photo, tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"Jos\xe9_N\xfa\xf1ez")
    photo = write_photo(tmp_path / "photo.jpg", 0)
    folder.mkdir()
    photo.rename(folder / LATIN_1)
    (person,) = load_people(tmp_path).everybody
    assert person.name == "José Núñez"
    assert read_photo(person.photos[0]) is not None
