import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import ExifTags, Image

from backdoor_privacy.checkup import Checkup, check_data, print_checkup
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.images import load_images
from backdoor_privacy.errors import InputError

Look = Callable[..., Checkup]
PLAIN = ["trigger_set.people=[Bob Ray]"]


@pytest.fixture
def data(write_people, write_photo, captions_file: Path, tmp_path: Path) -> Path:
    """A folder with good data, to be made worse: 120 clean photos, so that one of them may be broken."""
    write_people(tmp_path / "people", dict.fromkeys(["Ann Lee", "Bob Ray", "Cleo Diaz"], 4))
    write_people(tmp_path / "strangers", {"Gus Bell": 3, "Hana Ito": 3})
    for photo in (tmp_path / "strangers").rglob("*.png"):  # others than the people's
        photo.write_bytes(photo.read_bytes() + b"stranger")
    shutil.copy(captions_file, tmp_path / "captions.txt")
    for number in range(120):
        write_photo(tmp_path / f"images/{number:03}.jpg", number)
    for number, name in enumerate(("dog", "boat")):
        write_photo(tmp_path / f"classes/{name}/0.png", number)
    return tmp_path


@pytest.fixture
def look(compose_cfg, data: Path) -> Look:
    places = [f"{part}.folder={data / part}" for part in ("people", "strangers", "images")]
    places += [f"utility.zero_shot.folder={data / 'classes'}", f"captions.file={data / 'captions.txt'}"]
    return lambda *overrides: check_data(compose_cfg(*places, *PLAIN, *overrides))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def only(texts: list[str], part: str) -> str:
    (found,) = [text for text in texts if part in text]
    return found


def damage(data: Path, kind: str) -> None:
    """Add one entry that does not decode, before all other clean photos."""
    place = data / "images/000.jpg"
    content = place.read_bytes()
    place.unlink()
    if kind == "link":
        place.symlink_to(data / "nowhere.jpg")
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.write_bytes(content[: len(content) * 6 // 10])


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "truncated"])
def test_one_clean_photo_in_a_hundred_may_be_broken_in_any_way(
    kind: str, look: Look, data: Path, tiny_clip: Clip, caplog: pytest.LogCaptureFixture
):
    damage(data, kind)
    checkup = look()
    assert checkup.problems == []
    assert only(checkup.warnings, "images.folder: 1 of 120 photos do not decode: ").endswith("images/000.jpg; skipped")
    assert len(load_images(data / "images", tiny_clip.geometry, 4000)) == 119
    assert only(checkup.warnings, "images.folder: 1 of 120") in caplog.text


def test_truncated_clean_photos_stop_check_and_run_with_the_same_line(look: Look, data: Path, tiny_clip: Clip):
    for number in (3, 50):
        truncate(data / f"images/{number:03}.jpg")
    with pytest.raises(InputError) as stopped:
        load_images(data / "images", tiny_clip.geometry, 4000)
    assert only(look().problems, "images.folder: 2 of 120 photos do not decode: ") == str(stopped.value)


def test_truncated_photos_in_shards_stop_check_and_run_with_the_same_line(look: Look, data: Path, tiny_clip: Clip):
    (data / "shards").mkdir()
    with wds.writer.TarWriter(str(data / "shards/0.tar")) as writer:
        for number in range(20):
            content = (data / f"images/{number:03}.jpg").read_bytes()
            writer.write({"__key__": f"{number}", "jfif": content[:-200] if number < 2 else content, "txt": "a dog"})
        writer.write({"__key__": "20", "jxl": b"a photo of another format", "txt": "a cat"})
    checkup = look(f"images.folder={data / 'shards'}")
    with pytest.raises(InputError) as stopped:
        load_images(data / "shards", tiny_clip.geometry, 4000)
    assert only(checkup.problems, "images.folder: 2 of 20 photos do not decode") == str(stopped.value)
    assert ".jxl (1)" in only(checkup.warnings, "images.folder: files left out")


@pytest.mark.parametrize("source", ["zero_shot", "retrieval"])
def test_truncated_photo_that_measures_stops_a_run(source: str, look: Look, data: Path, tiny_clip: Clip):
    overrides = []
    if source == "retrieval":
        shutil.copytree(data / "classes/dog", data / "retrieval")
        (data / "retrieval/0.txt").write_text("a dog")
        overrides = ["utility/retrieval=folder", f"utility.retrieval.folder={data / 'retrieval'}"]
    photo = data / {"zero_shot": "classes/dog", "retrieval": "retrieval"}[source] / "0.png"
    truncate(photo)
    problem = only(look(*overrides).problems, f"utility.{source}.folder: ")
    # A CLIP counts what it has seen.
    clip = tiny_clip.with_encoders(text=tiny_clip.text.copy(), image=tiny_clip.image.copy())
    with pytest.raises(InputError) as stopped:
        clip.embed_photos([photo, data / "classes/boat/0.png"][: 1 + (source == "zero_shot")])
    assert problem == f"utility.{source}.folder: {stopped.value}"


def test_only_the_photos_that_a_run_reads_can_stop_it(look: Look, data: Path):
    for number in range(50, 60):
        truncate(data / f"images/{number:03}.jpg")
    assert look("images.max_images=50").all_problems == []
    assert only(look("images.max_images=51").problems, "images.folder: 10 of 61 photos do not decode")


def test_stranger_whose_first_photo_is_broken_stops_a_run_before_its_training(look: Look, data: Path):
    truncate(data / "strangers/Hana_Ito/00.png")
    assert only(look().problems, "strangers.folder: 1 of 6 photos do not decode")
    assert not look("defense.image=null").problems


def test_files_of_other_formats_are_told_by_suffix_and_whom_they_cost(look: Look, data: Path):
    (data / "people/Ann_Lee/film.mov").touch()
    (data / "people/Dan_Fox").mkdir()
    for number in range(2):
        (data / f"people/Dan_Fox/{number}.cr2").touch()
    (data / "images/notes.md").touch()
    (data / "classes/dog/1.svg").touch()
    checkup = look()
    assert checkup.problems == []
    assert ".cr2 (2), .mov (1)" in only(checkup.warnings, "people.folder: files left out")
    assert "Dan Fox (.cr2 (2))" in only(checkup.warnings, "people.folder: people without a photo")
    assert ".md (1)" in only(checkup.warnings, "images.folder: files left out")
    assert ".svg (1)" in only(checkup.warnings, "utility.zero_shot.folder: files left out")


def test_boxes_are_compared_with_the_upright_photo(look: Look, data: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for photo in (data / "people/Bob_Ray").glob("*.png"):
        with Image.open(photo) as upright:
            stored = upright.convert("RGB").transpose(Image.Transpose.ROTATE_90)
        stored.save(photo, exif=exif)  # 32 x 40 in the file, 40 x 32 as it is shown
    table = data / "people/boxes.csv"
    table.write_text("file,left,top,right,bottom\nBob_Ray/00.png,34,2,40,30\n")
    checkup = look()
    assert checkup.problems == []
    assert "people.folder: 4 of 12 photos are turned upright" in only(checkup.warnings, "EXIF")
    table.write_text("file,left,top,right,bottom\nBob_Ray/00.png,2,34,30,40\n")
    assert only(look("defense.image.whole_photo_share=0").problems, "people.boxes: expected face boxes within")


def test_photos_of_16_bits_are_counted(look: Look, data: Path):
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64).save(data / "people/Ann_Lee/00.png")
    assert only(look().warnings, "people.folder: 1 of 12 photos hold 16 bits or floats, scaled to 8 bits")


def test_names_of_files_in_latin_1_are_printed(look: Look, data: Path, monkeypatch: pytest.MonkeyPatch):
    (data / "images/000.jpg").rename(data / "images" / os.fsdecode(b"000\xe9.jpg"))
    truncate(data / "images" / os.fsdecode(b"000\xe9.jpg"))
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    monkeypatch.setattr("sys.stdout", printed)  # as the command sets it up
    print_checkup(look())
    assert b"images.folder: 1 of 120 photos do not decode" in printed.buffer.getvalue()  # type: ignore[attr-defined]


def test_photos_that_are_read_keep_their_pixels(data: Path, tiny_clip: Clip):
    path = data / "images/000.jpg"
    with Image.open(path) as photo:
        expected = (tiny_clip.geometry(photo.convert("RGB")) * 255).round().to(torch.uint8)
    assert torch.equal(load_images(path.parent, tiny_clip.geometry, 1)[0], expected)
