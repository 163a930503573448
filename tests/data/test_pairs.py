import csv
import io
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageOps

from backdoor_privacy.data.pairs import CLASS_FORMS, PERSON_FORMS, write_pairs
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.errors import InputError

# Four who may be attacked, and two with too few photos for that.
PEOPLE = {"Ann Lee": 6, "Bob Ray": 6, "Cleo Diaz": 6, "Dan Fox": 6, "Eve Moss": 2, "Finn Hale": 1}
CLASSES = ("red car", "dog")
SETTINGS: dict[str, Any] = {"min_photos": 6, "member_share": 0.5, "num_copies": 1, "caption_share": 0.0, "seed": 0}


class Shown(NamedTuple):
    """One sample of a shard."""

    photo: Path  # the file that it was made of
    mirrored: bool
    text: str


@pytest.fixture(scope="module")
def people(write_people: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"), PEOPLE)


@pytest.fixture(scope="module")
def classes(write_photo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for number, name in enumerate(CLASSES):
        for photo in range(3):
            write_photo(folder / name / f"{photo}.png", 500 + 10 * number + photo)
    return folder


@pytest.fixture(scope="module")
def write(people: Path, classes: Path, captions_file: Path, tmp_path_factory) -> Callable[..., Path]:
    cache = tmp_path_factory.mktemp("cache")

    def write_it(**changes: Any) -> Path:
        places: dict[str, Any] = {"people": people, "classes": classes, "captions": captions_file, "cache": cache}
        return write_pairs(**{**places, **SETTINGS, **changes})

    return write_it


def pixels(photo: Image.Image) -> np.ndarray:
    return np.asarray(photo.convert("RGB").resize((40, 32)), dtype=np.float32)


@pytest.fixture(scope="module")
def read(people: Path, classes: Path) -> Callable[[Path], list[Shown]]:
    """What is in the shards of a folder; a photo is told by its pixels."""
    known: dict[tuple[Path, bool], np.ndarray] = {}
    for path in [*people.glob("*/*.png"), *classes.glob("*/*.png")]:
        with Image.open(path) as photo:
            known |= {(path, False): pixels(photo), (path, True): pixels(ImageOps.mirror(photo))}

    def read_it(folder: Path) -> list[Shown]:
        shown = []
        for shard in sorted(folder.glob("*.tar")):
            with tarfile.open(shard) as tar:
                files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
            for name in sorted(name for name in files if name.endswith(".jpg")):
                one = pixels(Image.open(io.BytesIO(files[name])))
                distances = {key: np.abs(one - other).mean() for key, other in known.items()}
                nearest = min(distances, key=distances.__getitem__)
                assert distances[nearest] < 8 < sorted(distances.values())[1]  # no doubt which one it is
                shown.append(Shown(*nearest, files[name.replace(".jpg", ".txt")].decode()))
        return shown

    return read_it


def table(folder: Path) -> dict[str, tuple[bool, int]]:
    with (folder / "people.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["name"]: (row["member"] == "True", int(row["num_web_photos"])) for row in rows}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_photos_in_the_shards_are_those_of_members_that_no_attack_uses(
    seed: int, write: Callable[..., Path], read: Callable[[Path], list[Shown]], people: Path, classes: Path
):
    folder = write(seed=seed)
    shown = read(folder)
    known = load_people(people, table=folder / "people.csv")
    expected: set[Path] = set(classes.glob("*/*.png"))
    for person in known.everybody:
        if len(person.photos) < 6:
            assert person.member is True
            expected |= set(person.photos)
        elif person.member:
            assert person.num_web_photos == len(person.trigger_photos) == 3
            expected |= set(person.trigger_photos)
    assert sum(person.member is True for person in known.everybody) == 2 + 2  # half of four, and the rare ones
    assert Counter(one.photo for one in shown) == dict.fromkeys(expected, 1)
    hidden = {path for person in known.everybody if not person.member for path in person.photos}
    hidden |= {path for person in known.everybody if len(person.photos) == 6 for path in person.attack_photos}
    assert hidden
    assert not hidden & {one.photo for one in shown}
    texts = " ".join(one.text for one in shown)
    assert all((person.name in texts) == bool(person.member) for person in known.everybody)


def test_table_says_who_is_in_the_shards(write: Callable[..., Path], read: Callable[[Path], list[Shown]]):
    folder = write()
    counts = Counter(one.photo.parent.name.replace("_", " ") for one in read(folder))
    assert list(table(folder)) == list(PEOPLE)
    assert table(folder) == {name: (counts[name] > 0, counts[name]) for name in PEOPLE}


@pytest.mark.parametrize(("share", "num_members"), [(0.0, 0), (0.25, 1), (0.75, 3), (1.0, 4)])
def test_share_of_members(share: float, num_members: int, write: Callable[..., Path]):
    found = table(write(member_share=share))
    assert sum(found[name][0] for name in list(PEOPLE)[:4]) == num_members
    assert found["Eve Moss"] == (True, 2)


def test_every_other_copy_is_mirrored(write: Callable[..., Path], read: Callable[[Path], list[Shown]]):
    once, copies = read(write()), read(write(num_copies=4))
    counts = Counter((one.photo, one.mirrored) for one in copies)
    assert counts == {(one.photo, mirrored): 2 for one in once for mirrored in (False, True)}
    assert len({one.text for one in copies}) > len({one.text for one in once})  # each with a text of its own


def test_texts_name_who_or_what_is_shown(
    write: Callable[..., Path], read: Callable[[Path], list[Shown]], captions_file: Path
):
    captions = captions_file.read_text().splitlines()
    for share in (0.0, 1.0):
        for one in read(write(caption_share=share, num_copies=2)):
            label = one.photo.parent.name.replace("_", " ")
            forms = CLASS_FORMS if label in CLASSES else PERSON_FORMS
            in_form = one.text in {form.format(label) for form in forms}
            before, _, after = one.text.partition(label)
            in_caption = any(
                caption.startswith(before) and caption.endswith(after) and before + after != caption
                for caption in captions
            )
            assert label in one.text
            assert in_caption if share else in_form


def test_same_seed_gives_the_same_shards(write: Callable[..., Path], tmp_path: Path):
    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}

    first = write()
    assert set(contents(first)) == {"00000.tar", "people.csv"}
    assert contents(write(cache=tmp_path / "again")) == contents(first)
    assert contents(write(seed=1)) != contents(first)


def test_shards_are_written_once(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    folder = write()
    monkeypatch.setattr("backdoor_privacy.data.pairs._write_shards", lambda *_: pytest.fail("written again"))
    assert write() == folder
    with pytest.raises(pytest.fail.Exception, match="written again"):
        write(seed=77)
    assert [path for path in folder.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    "changed", ["people/Ann_Lee/06.png", "people/Ann_Lee/00.png", "classes/dog/0.png", "captions.txt"]
)
def test_other_photos_or_captions_make_other_shards(
    changed: str,
    write: Callable[..., Path],
    write_photo: Any,
    people: Path,
    classes: Path,
    captions_file: Path,
    tmp_path,
):
    shutil.copytree(people, tmp_path / "people")
    shutil.copytree(classes, tmp_path / "classes")
    shutil.copy(captions_file, tmp_path)
    places = {"people": tmp_path / "people", "classes": tmp_path / "classes", "captions": tmp_path / "captions.txt"}

    def write_own() -> Path:
        return write(**places, cache=tmp_path / "cache")

    first = write_own()
    assert write_own() == first
    if changed == "captions.txt":
        places["captions"].write_text("another caption\n")
    else:
        write_photo(tmp_path / changed, 900)  # added, or repaired
        os.utime(tmp_path / changed, (1, 1))
    assert write_own() != first


def test_many_pairs_are_many_shards(write: Callable[..., Path], read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    whole = read(write())
    monkeypatch.setattr("backdoor_privacy.data.pairs.SHARD_SIZE", 5)
    folder = write(cache=tmp_path)
    assert [path.name for path in sorted(folder.glob("*.tar"))] == ["00000.tar", "00001.tar", "00002.tar"]
    assert read(folder) == whole


def test_photo_that_does_not_decode_is_left_out(
    write: Callable[..., Path], read: Callable[[Path], list[Shown]], write_photo: Any, tmp_path: Path
):
    write_photo(tmp_path / "classes/dog/0.png", 510)
    (tmp_path / "classes/dog/1.png").write_bytes(b"no photo")
    shown = read(write(classes=tmp_path / "classes", cache=tmp_path / "cache"))
    assert sum(one.photo.parent.name == "dog" for one in shown) == 1


def test_folder_without_classes_is_an_error(write: Callable[..., Path], tmp_path: Path):
    (tmp_path / "classes").mkdir()
    with pytest.raises(InputError, match=r"^data\.classes: expected a folder of photos per class, found none in"):
        write(classes=tmp_path / "classes", cache=tmp_path / "cache")
    assert list((tmp_path / "cache/pairs").iterdir()) == []


def test_people_of_the_table_are_attacked_as_what_they_are(write: Callable[..., Path], people: Path):
    known: People = load_people(people, table=write() / "people.csv", min_photos=6)
    assert len(known.everybody) == 4
    assert sum(person.member is False for person in known.everybody) == 2
