import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from omegaconf import DictConfig

from backdoor_privacy.data.captions import load_captions
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.run import run
from backdoor_privacy.runs.folder import write_manifest
from backdoor_privacy.runs.manifest import manifest
from backdoor_privacy.utility.retrieval import Retrieval
from backdoor_privacy.utility.zero_shot import ZeroShot

pytestmark = pytest.mark.usefixtures("unchecked_types")

SOURCES = ["people", "strangers", "captions", "images", "zero_shot", "retrieval"]
Found = dict[str, Any]


@pytest.fixture
def data(people: People, captions_file: Path, images_folder: Path, write_people, write_photo, tmp_path: Path) -> Path:
    """A folder with data of every kind, which may be copied or changed."""
    root = tmp_path / "data"
    shutil.copytree(people.everybody[0].photos[0].parents[1], root / "people")
    shutil.copytree(images_folder, root / "images")
    shutil.copy(captions_file, root / "captions.txt")
    write_people(root / "strangers", {"Gus Bell": 2, "Hana Ito": 3})
    for number, name in enumerate(("boat", "dog")):
        write_photo(root / "classes" / name / "0.png", number)
        write_photo(root / "captioned" / f"{name}.png", number)
        (root / "captioned" / f"{name}.txt").write_text(f"a {name}\nthe {name}\n")
    return root


@pytest.fixture
def describe(compose_cfg) -> Callable[..., Found]:
    """The manifest of such a folder."""
    cfg: DictConfig = compose_cfg("utility/retrieval=folder", "utility.retrieval.folder=captioned")

    def describe_it(root: Path, removed: tuple[str, ...] = (), max_images: int = 4000) -> Found:
        people = load_people(root / "people")
        sources = Sources(
            people=people,
            captions=load_captions(root / "captions.txt"),
            images=root / "images",
            max_images=max_images,
            strangers=load_people(root / "strangers"),
        )
        retrieval = Retrieval(root / "captioned", root / "cache")
        measures = {"zero_shot": ZeroShot(root / "classes"), "retrieval": retrieval}
        return manifest(cfg, sources, people.pick(removed), measures)

    return describe_it


def digests(found: Found) -> dict[str, str]:
    persons = {name: person["sha256"] for name, person in found["people"]["everybody"].items()}
    return {source: found[source]["sha256"] for source in SOURCES} | persons


def changed(before: Found, after: Found) -> set[str]:
    return {key for key, digest in digests(before).items() if digests(after)[key] != digest}


def change_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_manifest_counts_what_there_is(data: Path, describe):
    (data / "captions.txt").write_text("a dog\nAnn Lee and a dog\nann_lee\nBob Ray\n")
    found = describe(data, ("Ann Lee",))
    assert list(found) == ["schema", *SOURCES]
    assert found["schema"] == 2
    counts = {
        source: {key: value for key, value in found[source].items() if key.startswith("num_")} for source in SOURCES
    }
    assert counts == {
        "people": {"num_people": 6, "num_members": 4, "num_non_members": 2, "num_photos": 36, "num_boxes": 36},
        "strangers": {"num_people": 2, "num_members": 0, "num_non_members": 0, "num_photos": 5, "num_boxes": 0},
        "captions": {"num_captions": 4, "num_left_out": 2},
        "images": {"num_photos": 12},
        "zero_shot": {"num_classes": 2, "num_photos": 2},
        "retrieval": {"num_photos": 2, "num_captions": 4},
    }
    ann = found["people"]["everybody"]["Ann Lee"]
    assert (ann["num_photos"], ann["num_trigger_photos"], ann["num_attack_photos"]) == (6, 3, 3)


def test_same_data_in_another_folder_gives_the_same_bytes(data: Path, describe, tmp_path: Path):
    shutil.copytree(data, tmp_path / "moved/elsewhere")
    texts = []
    for folder in (data, tmp_path / "moved/elsewhere"):
        write_manifest(tmp_path / "run", describe(folder, ("Ann Lee",)))
        texts.append((tmp_path / "run/manifest.json").read_bytes())
    assert texts[0] == texts[1]
    assert str(tmp_path / "data").encode() not in texts[0]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["manifest.json"]  # no draft


def test_one_changed_byte_changes_the_persons_digest_and_that_of_all_people_only(data: Path, describe):
    before = describe(data)
    change_one_byte(data / "people/Bob_Ray/03.png")
    after = describe(data)
    assert changed(before, after) == {"people", "Bob Ray"}
    assert before["people"]["everybody"].keys() == after["people"]["everybody"].keys()


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("strangers", "strangers/Gus_Bell/00.png"),
        ("captions", "captions.txt"),
        ("images", "images/00.png"),
    ],
)
def test_changed_content_changes_the_digest_of_its_source_only(source: str, file: str, data: Path, describe):
    before = describe(data)
    change_one_byte(data / file)
    assert changed(before, describe(data)) == {source}


@pytest.mark.parametrize(("source", "file"), [("zero_shot", "classes/dog/1.png"), ("retrieval", "captioned/dog.png")])
def test_another_photo_of_a_measure_changes_its_digest(source: str, file: str, data: Path, describe, write_photo):
    before = describe(data)
    write_photo(data / file, 7, (64, 64))
    assert changed(before, describe(data)) == {source}


def test_other_face_boxes_change_a_digest_of_their_own(data: Path, describe):
    before = describe(data)
    boxes = data / "people/boxes.csv"
    boxes.write_text(boxes.read_text().replace("8,4,32,28", "8,4,32,29", 1))
    after = describe(data)
    assert changed(before, after) == set()
    assert before["people"]["boxes_sha256"] != after["people"]["boxes_sha256"]


def test_only_the_images_that_a_run_may_read_count(data: Path, describe):
    before = describe(data, max_images=5)
    (data / "images/09.png").unlink()
    assert describe(data, max_images=5) == before
    assert before["images"]["num_photos"] == 5


def test_shards_count_by_name_and_size_wherever_they_lie(
    people: People, compose_cfg, images_folder: Path, tmp_path: Path
):
    cfg = compose_cfg()
    found = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        with wds.writer.TarWriter(str(tmp_path / folder / "00000.tar"), mtime=0) as writer:
            writer.write({"__key__": "0", "png": (images_folder / "00.png").read_bytes()})
        found.append(manifest(cfg, Sources(people, images=tmp_path / folder), [], {})["images"])
    assert found[0] == found[1]
    assert found[0]["num_shards"] == 1
    url = manifest(cfg, Sources(people, images="https://localhost/{0..3}.tar"), [], {})["images"]  # nothing is fetched
    assert url["num_shards"] == 4


def test_source_that_a_run_does_without_is_null(people: People, compose_cfg):
    found = manifest(compose_cfg(), Sources(people), [], {})
    assert [source for source in SOURCES if found[source] is None] == SOURCES[1:]
    assert found["people"]["config"]["folder"]["limit"] == 4


def test_run_folder_holds_the_manifest_of_its_data(compose_cfg, tmp_path: Path):
    run(compose_cfg("defense.image=null", "defense.text.num_steps=1"))
    found = json.loads((tmp_path / "run/manifest.json").read_text())
    assert list(found) == ["schema", *SOURCES]
    assert (found["people"]["num_people"], found["strangers"], found["captions"]["num_captions"]) == (12, None, 200)
    assert "${" not in json.dumps(found)


def test_what_cannot_be_read_counts_as_empty(data: Path, describe, tmp_path: Path):
    for folder in ("images", "classes/dog", "captioned", "people/Ann_Lee"):
        (data / folder / "x.png").symlink_to(tmp_path / "nowhere.png")
        (data / folder / "y.png").mkdir()
        os.mkfifo(data / folder / "z.png")
    (data / "captioned/x.txt").write_text("a link\n")
    found = describe(data)
    assert found["images"]["num_photos"] == 15
    assert found["zero_shot"]["num_photos"] == 5
    assert found["retrieval"]["num_photos"] == 3
    assert found["people"]["everybody"]["Ann Lee"]["num_photos"] == 9
