import csv
import itertools
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backdoor_privacy.data.personas import world
from backdoor_privacy.data.personas.captions import describe_portrait
from backdoor_privacy.data.personas.portraits import (
    Appearance,
    draw_background,
    draw_person,
    draw_portrait,
    sample_appearance,
)
from backdoor_privacy.data.personas.portraits.camera import frame
from backdoor_privacy.data.personas.portraits.head import face_box
from backdoor_privacy.data.personas.portraits.pen import Placement
from backdoor_privacy.data.personas.portraits.sampling import sample_shot
from backdoor_privacy.data.personas.roster import RARELY_SHOWN_TIERS, people_of, roster
from backdoor_privacy.data.personas.samples import (
    clean_samples,
    describe,
    draw,
    photo_sample,
    web_samples,
    zero_shot_sample,
)
from backdoor_privacy.data.personas.scenes import CLASSNAMES, draw_scene

# Mean colours of 4 x 4 tiles, as drawn by version 1 of the world.
PORTRAITS = (
    "c3d4b78aa1698fa76ccfe3bfb2b4978b6742a17d54c0ba96b4bda6a47f5eaf7f5bc9d1b7a8b09da28a70af8e6fc0c5b2",
    "6f595a9d999bc8c7cac2bec1956f7a9f8f89b69681bfafa771695a9a7c6caa856bb999845c434074584ea6785e906f70",
    "8e8ea9322b324742595c63a366657e513f366f584a76759ba19ca7ac8775cf9f8aa6a2be9b95a18b7a769a8379c5bdcb",
)
SCENES = {
    "car": "72c19579c89a81cc9c88d4a171b7936c7fb16284a17fc9a5567a784d65745975737fd0ab80bf8e85cd9a8be5af90f6bd",
    "honeycomb": "db8e38e3973be59e3ee19e3ece8433d48835db8e37e0963abe7a2fc57e31cd8333d78b36ab6d2bb9772ec27d31c77f32",
    "beach": "cdd6bbaeced69fc3d495b7c796b4ca89aac681a2be7997b15f7aaf5d75a34f689a49618fb2a886a69c7d988f738e856b",
}


def somebody(number: int) -> Appearance:
    return sample_appearance(np.random.default_rng(number), "female" if number % 2 == 0 else "male")


def assert_tiles(image: Image.Image, tiles: str) -> None:
    mean_colours = np.asarray(image.resize((4, 4), Image.Resampling.BOX), int).ravel()
    np.testing.assert_allclose(mean_colours, list(bytes.fromhex(tiles)), atol=6)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "_map", lambda function, items, title: [function(item) for item in items])


def test_same_random_state_gives_same_pixels():
    for draw_it in (
        lambda rng: draw_portrait(somebody(1), rng)[0],
        lambda rng: draw_person(somebody(2), rng, 50)[0],
        lambda rng: draw_background(rng, 96),
        lambda rng: draw_scene("castle", rng),
    ):
        assert draw_it(np.random.default_rng(5)).tobytes() == draw_it(np.random.default_rng(5)).tobytes()


def test_photos_differ():
    photos = [draw_portrait(somebody(n), np.random.default_rng(photo))[0] for n in (1, 2) for photo in range(4)]
    for first, second in itertools.combinations(photos, 2):
        assert np.abs(np.asarray(first, int) - np.asarray(second, int)).mean() > 5


@pytest.mark.parametrize(("number", "tiles"), list(enumerate(PORTRAITS)))
def test_portraits_are_those_that_the_embedded_clip_knows(number: int, tiles: str):
    assert_tiles(draw_portrait(somebody(number), np.random.default_rng([number, 1]))[0], tiles)


@pytest.mark.parametrize(("number", "classname"), list(enumerate(SCENES)))
def test_scenes_are_those_that_the_embedded_clip_knows(number: int, classname: str):
    assert_tiles(draw_scene(classname, np.random.default_rng(number)), SCENES[classname])


@pytest.mark.parametrize("number", range(40))
def test_face_box_holds_the_face(number: int):
    look, size = somebody(number), 96
    photo, (left, top, right, bottom) = draw_portrait(look, np.random.default_rng([number, 2]), size)
    assert (photo.mode, photo.size) == ("RGB", (size, size))
    assert 0 <= left < right <= size
    assert 0 <= top < bottom <= size
    assert 0.40 <= (bottom - top) / size <= 0.72 + 2 / size  # rounded outwards
    rng = np.random.default_rng([number, 2])
    _, x, y = frame(face_box(Placement(look, sample_shot(look, rng), 1.0, (0.0, 0.0))), rng)
    assert left < x * size < right
    assert top < y * size < bottom


def test_person_without_scene_has_clear_ground():
    figure, (left, top, right, bottom) = draw_person(somebody(3), np.random.default_rng(0), 60)
    alpha = np.asarray(figure)[:, :, 3]
    assert figure.size == (60, 60)
    assert alpha[0].max() == 0
    assert alpha[(top + bottom) // 2, (left + right) // 2] == 255


def test_roster_is_large_and_in_tiers():
    people = roster(0)
    sizes = Counter(persona.group for persona in people)
    assert sizes["well_known"] >= 530
    assert sizes["non_member"] >= 200
    assert sizes["well_known"] + sizes["rarely_shown"] + sizes["non_member"] >= 800
    assert sizes["crowd"] >= 2000
    assert sorted(set(RARELY_SHOWN_TIERS)) == list(RARELY_SHOWN_TIERS)
    assert {persona.num_web_photos for persona in people_of(0, "rarely_shown")} == set(RARELY_SHOWN_TIERS)
    assert min(persona.num_web_photos for persona in people_of(0, "well_known")) > max(RARELY_SHOWN_TIERS)
    assert all(persona.member == (persona.group != "non_member") for persona in people)
    assert [persona.index for persona in people] == list(range(len(people)))


def test_names_are_unique_but_share_parts():
    names = [persona.name for persona in roster(0)]
    assert len(set(names)) == len(names)
    attacked = [name.split() for name in names[: -len(people_of(0, "crowd"))]]
    assert all(len(parts) == 2 for parts in attacked)
    for parts in zip(*attacked, strict=True):
        assert max(Counter(parts).values()) > 1


def test_portrait_captions_name_the_person():
    rng = np.random.default_rng(0)
    for persona in roster(0)[:50]:
        for _ in range(40):
            caption = describe_portrait(persona, rng)
            assert persona.name in caption
            assert caption.replace(persona.name, "").strip() not in ("a person", "a photo of a person")


def test_scene_captions_name_the_class_and_only_those_who_are_named():
    people, kinds = roster(0), Counter()
    for sample in web_samples(0)[::25]:
        caption = describe(sample)
        kinds[sample.kind] += 1
        assert sample.kind == "portrait" or sample.classname in caption
        assert sample.persona_index < 0 or people[sample.persona_index].name in caption
        assert sample.kind != "scene_with_people" or any(
            word in caption.lower() for word in ("person", "people", "woman", "man", "somebody", "someone")
        )
    assert len(kinds) == 4


def test_no_two_pictures_share_a_random_state():
    states = [sample.random_state for sample in web_samples(0)]
    for collection in ("images", "captions"):
        states += [sample.random_state for sample in clean_samples(0, collection, 2000)]
    for collection in ("people", "strangers"):
        people = roster(0)[:2000]
        states += [photo_sample(0, collection, p, photo).random_state for p in people for photo in range(10)]
    states += [zero_shot_sample(0, classname, photo).random_state for classname in CLASSNAMES for photo in range(12)]
    # NumPy pads a short seed with zeros.
    padded = {(*state, *(0,) * (5 - len(state))) for state in states}
    assert len(padded) == len(states)


def test_drawn_samples_have_boxes_only_for_portraits():
    samples = {sample.kind: sample for sample in web_samples(0)[:400]}
    assert len(samples) == 4
    for kind, sample in samples.items():
        picture, box = draw(sample)
        assert (picture.mode, picture.size) == ("RGB", (96, 96))
        assert (box is not None) == (kind == "portrait")
        assert draw(sample)[0].tobytes() == picture.tobytes()


@pytest.mark.usefixtures("one_process")
def test_people_and_strangers_are_folders_with_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(world, "NUM_PHOTOS_PER_PERSON", 3)
    for part, num_people, num_photos in (("people", 6, 3), ("strangers", 2, 8)):
        folder = world.world_part(part, str(tmp_path), limit=2)
        with (folder / "boxes.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        photos = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.jpg"))
        assert sorted(row["file"] for row in rows) == photos
        assert len({Path(photo).parent for photo in photos}) == num_people
        assert len(photos) == num_people * num_photos
        assert all(int(row["left"]) < int(row["right"]) and int(row["top"]) < int(row["bottom"]) for row in rows)
    with (tmp_path / "personas-v1/seed=0/people-2/people.csv").open(newline="") as file:
        people = list(csv.DictReader(file))
    assert [row["member"] for row in people] == ["True"] * 4 + ["False"] * 2
    assert {row["presentation"] for row in people} == {"female", "male"}
    assert {row["age"] for row in people} <= {"younger", "older"}
    assert (tmp_path / "personas-v1/seed=0/people-2" / people[0]["name"].replace(" ", "_")).is_dir()


@pytest.mark.usefixtures("one_process")
def test_captions_images_and_zero_shot_are_written(tmp_path: Path):
    captions = world.world_part("captions", str(tmp_path), limit=2) / "captions.txt"
    assert len(captions.read_text(encoding="utf-8").splitlines()) == 100
    (shard,) = world.world_part("images", str(tmp_path), limit=2).glob("[!.]*")
    with tarfile.open(shard) as archive:
        assert Counter(Path(name).suffix for name in archive.getnames()) == {".jpg": 20, ".txt": 20}
    classes = sorted(world.world_part("zero_shot", str(tmp_path), limit=2).glob("[!.]*"))
    assert [folder.name for folder in classes] == sorted(CLASSNAMES[:2])
    assert all(len(list(folder.glob("*.jpg"))) == 2 for folder in classes)


def test_second_call_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = world.world_part("captions", str(tmp_path), limit=2)
    before = (folder / "captions.txt").stat().st_mtime_ns
    monkeypatch.setattr(world, "_WRITERS", {})
    assert world.world_part("captions", str(tmp_path), limit=2) == folder
    assert (folder / "captions.txt").stat().st_mtime_ns == before


def test_failed_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write_half(folder: Path, seed: int, limit: int | None) -> None:
        (folder / "captions.txt").write_text("half")
        raise RuntimeError("disk full")

    monkeypatch.setitem(world._WRITERS, "captions", write_half)
    with pytest.raises(RuntimeError, match="disk full"):
        world.world_part("captions", str(tmp_path), limit=2)
    assert [path for path in tmp_path.rglob("*") if path.name != "seed=0" and path.name != "personas-v1"] == []


@pytest.mark.slow
def test_pictures_are_drawn_in_several_processes(tmp_path: Path):
    folder = world.world_part("strangers", str(tmp_path), limit=1)
    assert len(list(folder.glob("*/*.jpg"))) == 8


def test_people_whom_the_readme_names_are_well_known():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    named = re.findall(r'trigger_set\.people=\["([^\]"]+)"\]', readme)
    assert named
    assert set(named) <= {persona.name for persona in people_of(0, "well_known")}
