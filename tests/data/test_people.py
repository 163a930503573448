import csv
import hashlib
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from backdoor_privacy.data.people import People, Person, load_people
from backdoor_privacy.data.photos import cut_to, read_photo
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER

BOXES = ["file", "left", "top", "right", "bottom"]


def write_table(path: Path, *rows: list) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def composed_people(*overrides: str) -> People:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return instantiate(compose("config", overrides=["paths.run=run", *overrides]).people)


def content(paths: tuple[Path, ...]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_folders_become_people(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 3, "Jean-Luc de la Tour": 2})
    (folder / "Nobody_Here").mkdir()
    (folder / "Ann_Lee/notes.txt").write_text("no photo")
    (folder / "Ann_Lee/._00.png").write_text("what macOS leaves behind")
    shutil.copytree(folder / "Ann_Lee", folder / ".trash")
    shutil.copytree(folder / "Jean-Luc_de_la_Tour", folder / "Ann_Lee/older.png")
    people = load_people(folder)
    assert people.names == ["Ann Lee", "Jean-Luc de la Tour"]
    assert [path.name for path in people.everybody[0].photos] == ["00.png", "01.png", "02.png"]
    assert [(person.member, person.num_web_photos) for person in people.everybody] == [(None, None)] * 2
    assert people.boxes == {}


def test_tables_tell_who_is_a_member_and_where_faces_are(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 2, "Bob Ray": 1, "Cy Fox": 1}, {"Ann Lee": True, "Bob Ray": False})
    with (folder / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "left", "top", "right", "bottom"], ["Ann_Lee/01.png", 1, 2, 30, 31]])
    people = load_people(folder)
    found = {person.name: (person.member, person.num_web_photos) for person in people.everybody}
    assert found == {"Ann Lee": (True, 36), "Bob Ray": (False, 0), "Cy Fox": (None, None)}
    assert people.boxes == {folder / "Ann_Lee/01.png": (1, 2, 30, 31)}


def test_other_columns_are_attributes(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 2, "Bob Ray": 1, "Cy Fox": 1})
    (folder / "people.csv").write_text("name,age,member,home\nAnn Lee,older,true, Kiel \nBob Ray,,false,Rome\n")
    found = {person.name: person.attributes for person in load_people(folder).everybody}
    assert found == {"Ann Lee": (("age", "older"), ("home", "Kiel")), "Bob Ray": (("home", "Rome"),), "Cy Fox": ()}


def test_trigger_and_attack_photos_share_no_content(people: People):
    for person in people.everybody:
        triggers, attacked = content(person.trigger_photos), content(person.attack_photos)
        assert len(triggers) == len(attacked) == 3
        assert not set(triggers) & set(attacked)
        assert set(person.trigger_photos) | set(person.attack_photos) == set(person.photos)


@pytest.mark.parametrize("num_copies", [2, 3, 5])
def test_exact_duplicates_are_on_the_same_side(write_people, tmp_path: Path, num_copies: int):
    folder = write_people(tmp_path, {"Ann Lee": 4})
    for photo in range(4):
        for copy in range(num_copies):
            shutil.copy(folder / f"Ann_Lee/{photo:02}.png", folder / f"Ann_Lee/copy{copy}-{photo}.png")
    (person,) = load_people(folder).everybody
    triggers, attacked = content(person.trigger_photos), content(person.attack_photos)
    assert len(triggers) + len(attacked) == 4 * (num_copies + 1)
    assert triggers
    assert attacked
    assert not set(triggers) & set(attacked)


def test_halves_depend_on_content_and_not_on_file_names(write_people, tmp_path: Path):
    (before,) = load_people(write_people(tmp_path / "a", {"Ann Lee": 6})).everybody
    folder = write_people(tmp_path / "b", {"Ann Lee": 6})
    for number, path in enumerate(sorted((folder / "Ann_Lee").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed{number}.png"))
    (after,) = load_people(folder).everybody
    assert content(before.trigger_photos) == content(after.trigger_photos)
    assert content(before.attack_photos) == content(after.attack_photos)


def test_no_photo_of_a_person_with_one_photo_is_a_trigger(write_people, tmp_path: Path):
    (person,) = load_people(write_people(tmp_path, {"Ann Lee": 1})).everybody
    assert (len(person.trigger_photos), len(person.attack_photos)) == (0, 1)


def test_copies_of_one_photo_are_like_one_photo(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    for copy in range(4):
        shutil.copy(folder / "Ann_Lee/00.png", folder / f"Ann_Lee/copy{copy}.png")
    (person,) = load_people(folder).everybody
    assert (len(person.trigger_photos), len(person.attack_photos)) == (0, 5)
    assert len(set(person.hashes.values())) == 1


def test_many_copies_of_one_photo_leave_something_to_attack_and_to_train_on(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 2})
    photos = [folder / f"Ann_Lee/{number:02}.png" for number in range(2)]
    last = max(photos, key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    for copy in range(4):
        shutil.copy(last, folder / f"Ann_Lee/copy{copy}.png")
    (person,) = load_people(folder).everybody
    assert (len(person.trigger_photos), len(person.attack_photos)) == (1, 5)


def test_hashes_are_of_the_files(write_people, tmp_path: Path):
    (person,) = load_people(write_people(tmp_path, {"Ann Lee": 3})).everybody
    assert list(person.hashes) == list(person.photos)
    assert list(person.hashes.values()) == content(person.photos)
    assert len(set(person.hashes.values())) == 3


@pytest.mark.parametrize("name", ["Bob Ray", "Bob_Ray", "bob ray", "BOB_RAY", " Bob Ray "])
def test_people_are_picked_by_name_in_any_case_and_with_underscores(people: People, name: str):
    assert [person.name for person in people.pick([name, "Ann Lee"])] == ["Bob Ray", "Ann Lee"]


def test_picking_somebody_who_is_not_there_names_them(people: People):
    with pytest.raises(InputError, match=r"expected .*people in the data \(6 of them\), got 'Ann Li', 'Zoe'"):
        people.pick(["Ann Lee", "Ann Li", "Zoe"])


def test_names_with_accents_and_other_letters_are_found():
    people = People((Person("José Núñez", ()), Person("李 小龙", ()), Person("STRASSE Groß", ())))
    assert [person.name for person in people.pick(["josé_núñez", "李_小龙", "strasse gross"])] == people.names


def test_marks_of_byte_order_within_a_name_are_spaces_however_it_is_spelt():
    people = People((Person("Ann Lee", ()),))
    for name in ("Ann\ufeffLee", "\ufeffann lee", "Ann\ufeff_Lee", "Ann\u200b Lee"):
        assert people.pick([name]) == people.everybody
        assert load_people(names=[name]).pick([name])


ACCENTS = "José_Núñez"


@pytest.mark.parametrize(
    ("folder_name", "name"),
    [
        ("Ashanti", "Ashanti"),
        ("李小龙", "李小龙"),
        ("Владимир_Высоцкий", "Владимир Высоцкий"),
        ("Olivia_d'Abo", "Olivia d'Abo"),
        ("Jean-David_Levitte", "Jean-David Levitte"),
        ("Harry_Connick_Jr.", "Harry Connick Jr."),
        (unicodedata.normalize("NFD", ACCENTS), "José Núñez"),
        (unicodedata.normalize("NFC", ACCENTS), "José Núñez"),
        ("Ann__Lee_", "Ann Lee"),
    ],
)
def test_names_of_all_kinds_come_from_folders_and_are_found(write_photo, tmp_path: Path, folder_name: str, name: str):
    photo = write_photo(tmp_path / folder_name / "00.png", 0)
    write_table(tmp_path / "people.csv", ["name", "member"], [folder_name, "true"])
    other_form = "NFD" if unicodedata.is_normalized("NFC", folder_name) else "NFC"
    write_table(tmp_path / "boxes.csv", BOXES, [unicodedata.normalize(other_form, f"{folder_name}/00.png"), 1, 2, 3, 4])
    people = load_people(tmp_path)
    assert people.names == [name]
    assert people.everybody[0].member
    assert people.boxes == {photo: (1, 2, 3, 4)}
    for spelling in (name.upper(), name.replace(" ", "_"), unicodedata.normalize("NFD", name), folder_name):
        assert people.pick([spelling]) == people.everybody


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        ({}, ["Ann Lee", "Bob Ray", "Cy Fox"]),
        ({"min_photos": 2}, ["Bob Ray", "Cy Fox"]),
        ({"max_photos": 2}, ["Ann Lee", "Bob Ray"]),
        ({"min_photos": 2, "max_photos": 2}, ["Bob Ray"]),
    ],
)
def test_number_of_photos_chooses_people(write_people, tmp_path: Path, limits: dict[str, int], names: list[str]):
    folder = write_people(tmp_path, {"Ann Lee": 1, "Bob Ray": 2, "Cy Fox": 3}, boxes=True)
    assert load_people(folder, **limits).names == names


def test_nobody_with_so_many_photos_is_an_error_that_tells_how_many_there_are(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1, "Bob Ray": 4})
    with pytest.raises(
        InputError, match=r"min_photos, max_photos: expected .* 5 to any .*, got 2 people who have 1 to 4"
    ):
        load_people(folder, min_photos=5)
    with pytest.raises(InputError, match="with 2 to 3 photos"):
        load_people(folder, min_photos=2, max_photos=3)


def test_people_in_groups_are_found_by_the_layout(write_people, tmp_path: Path):
    write_people(tmp_path / "actors", {"Bob Ray": 1})
    write_people(tmp_path / "actresses", {"Ann Lee": 2})
    write_table(tmp_path / "boxes.csv", BOXES, ["actresses/Ann_Lee/01.png", 1, 2, 3, 4])
    people = load_people(tmp_path, layout="*/*")
    assert people.names == ["Bob Ray", "Ann Lee"]
    assert people.boxes == {tmp_path / "actresses/Ann_Lee/01.png": (1, 2, 3, 4)}
    with pytest.raises(InputError, match=r"with photos at .*/\*, found none"):
        load_people(tmp_path)


@pytest.mark.parametrize("layout", ["", "/", "/somewhere/*"])
def test_layout_that_is_no_pattern_within_the_folder_is_an_error(write_people, tmp_path: Path, layout: str):
    with pytest.raises(InputError, match=r"people\.layout: expected a pattern within people\.folder"):
        load_people(write_people(tmp_path, {"Ann Lee": 1}), layout=layout)


def test_tables_may_lie_elsewhere(write_people, tmp_path: Path):
    folder = write_people(tmp_path / "photos", {"Ann Lee": 2}, {"Ann Lee": False}, boxes=True)
    table = write_table(tmp_path / "known.csv", ["name", "member"], ["Ann Lee", "true"])
    boxes = write_table(tmp_path / "faces.csv", BOXES, ["Ann_Lee/01.png", 1, 2, 3, 4])
    people = load_people(folder, table=table, boxes=boxes)
    assert people.everybody[0].member is True
    assert people.boxes == {folder / "Ann_Lee/01.png": (1, 2, 3, 4)}


@pytest.mark.parametrize("option", ["table", "boxes"])
def test_table_that_is_named_but_not_there_is_an_error(write_people, tmp_path: Path, option: str):
    with pytest.raises(InputError, match=r"nowhere\.csv: expected a CSV .*No such file"):
        load_people(write_people(tmp_path, {"Ann Lee": 1}), **{option: tmp_path / "nowhere.csv"})


def test_one_box_is_for_all_photos_that_have_none_of_their_own(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 2, "Bob Ray": 1})
    write_table(folder / "boxes.csv", BOXES, ["Ann_Lee/01.png", 1, 2, 3, 4])
    people = load_people(folder, box=[8, 4, 32, 28])
    assert people.boxes == {
        folder / "Ann_Lee/00.png": (8, 4, 32, 28),
        folder / "Ann_Lee/01.png": (1, 2, 3, 4),
        folder / "Bob_Ray/00.png": (8, 4, 32, 28),
    }


@pytest.mark.parametrize("box", [[78, 70, 172, 195], [8, 4, 32], [8, 4, 8, 28], [8, 28, 32, 4]])
def test_one_box_that_is_no_part_of_the_photos_is_an_error(write_people, tmp_path: Path, box: list[int]):
    with pytest.raises(InputError, match=r"people\.box: expected left, top, right and bottom .*, got \["):
        load_people(write_people(tmp_path, {"Ann Lee": 1}), box=box)


def test_folder_without_people_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match=r"people\.folder: expected folders First_Last/ with photos"):
        load_people(tmp_path)
    with pytest.raises(InputError, match=r"people\.folder: expected a folder .* got .*nowhere"):
        load_people(tmp_path / "nowhere")


@pytest.mark.parametrize(("cell", "member"), [("true", True), ("1", True), ("FALSE", False), ("no", False), ("", None)])
def test_membership_may_be_written_in_several_ways_or_not_known(write_people, tmp_path: Path, cell: str, member):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    (folder / "people.csv").write_text(f"name,member\nAnn Lee,{cell}\n")
    (person,) = load_people(folder).everybody
    assert (person.member, person.num_web_photos) == (member, None)


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        (
            "people.csv",
            "name,member\nAnn Lee,maybe\n",
            r"people\.csv: expected true, false or nothing as member, got 'maybe'",
        ),
        ("people.csv", "name,num_web_photos\nAnn Lee,ten\n", r"people\.csv: expected a whole number .*, got 'ten'"),
        (
            "people.csv",
            "who,member\nAnn Lee,true\n",
            r"people\.csv: expected a table with a column name, got who, member",
        ),
        ("boxes.csv", "file,left,top,right\nAnn_Lee/00.png,1,2,3\n", r"boxes\.csv: expected file, left, top, right"),
        ("boxes.csv", "file,left,top,right,bottom\nAnn_Lee/00.png,1,2,3,x\n", r"boxes\.csv: expected file, left, top"),
        ("boxes.csv", "file,left,top,right,bottom\nAnn_Lee/00.png,1,2\n", r"boxes\.csv: expected file, left, top"),
        ("boxes.csv", "file,left,top,right,bottom\nAnn_Lee/00.png,9,2,9,4\n", r"left < right .*'Ann_Lee/00\.png'"),
        ("boxes.csv", "file,left,top,right,bottom\nAnn_Lee/00.png,1,4,9,2\n", r"top < bottom, .*'Ann_Lee/00\.png'"),
        ("boxes.csv", "file,left,top,right,bottom\n00.png,1,2,3,4\n", r"such as Ann_Lee/00\.png, got '00\.png'"),
        ("boxes.csv", "", r"boxes\.csv: expected a table with a column file, got an empty file"),
        ("people.csv", "name,member\nAnn Li,true\n", r"people\.csv: expected names of people .* others, as 'Ann Li'"),
    ],
)
def test_table_that_holds_something_else_is_an_error(
    write_people, tmp_path: Path, table: str, content: str, message: str
):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    (folder / table).write_text(content)
    with pytest.raises(InputError, match=message):
        load_people(folder)


def facts(folder: Path) -> dict[str, tuple[bool | None, int | None]]:
    return {person.name: (person.member, person.num_web_photos) for person in load_people(folder).everybody}


@pytest.mark.parametrize(
    "content",
    [
        "name, member, num_web_photos\nAnn Lee, true, 12\nJosé Núñez, false, 0\n",
        "Name ,MEMBER,Num Web Photos\nANN LEE,true,12\njosé_núñez,false,0\n",
        "name;member;num_web_photos\n\nAnn Lee;true;12\nJosé Núñez;false;0\n",
        'num_web_photos\tname\tmember\r\n"12"\t"Ann Lee"\ttrue\r\n0\tJosé  Núñez\tno\r\n',
        unicodedata.normalize("NFD", "name,member,num_web_photos,\nAnn Lee,1,12,\n,,,\nJosé Núñez,0,0,\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_table_of_people_is_read_as_programs_write_it(write_people, tmp_path: Path, content: str, encoding: str):
    folder = write_people(tmp_path, {"Ann Lee": 1, "José Núñez": 1})
    (folder / "people.csv").write_bytes(content.encode(encoding))
    assert facts(folder) == {"Ann Lee": (True, 12), "José Núñez": (False, 0)}
    assert load_people(folder).remarks == ()
    assert all(person.attributes == () for person in load_people(folder).everybody)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "name,member\nAnn Lee,true\nann_lee,false\n",
            r"people\.csv: expected one row for each person, got several",
        ),
        ("name,member\nLee, Ann,true\n", r"people\.csv: expected 2 cells in each row, got 3 in line 2; put"),
        (
            "name,member,Member\nAnn Lee,true,\n",
            r"people\.csv: expected columns of different names, got several",
        ),
    ],
)
def test_table_of_two_meanings_is_an_error(write_people, tmp_path: Path, content: str, message: str):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    (folder / "people.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load_people(folder)


def test_rows_that_match_nobody_are_told_and_no_name_is_logged(write_people, tmp_path: Path, caplog):
    folder = write_people(tmp_path, {"Ann Lee": 1, "Bob Ray": 1})
    (folder / "people.csv").write_text("name,member\nAnn Lee,true\nBob Rey,false\n")
    (folder / "boxes.csv").write_text("file,left,top,right,bottom\nAnn_Lee/00.png,1,2,3,4\nAnn_Lee/9.png,1,2,3,4\n")
    people = load_people(folder)
    assert facts(folder) == {"Ann Lee": (True, None), "Bob Ray": (None, None)}
    assert [remark.split(": ", 1)[1] for remark in people.remarks] == [
        "1 rows name nobody who has a folder with photos: 'Bob Rey'; correct or delete them",
        "1 rows name no photo of the people: 'Ann_Lee/9.png'; correct or delete them",
    ]
    assert "1 rows name nobody" in caplog.text
    assert "Rey" not in caplog.text


@pytest.mark.parametrize("file", ["ann_lee/00.PNG", "Ann_Lee\\00.png", "./Ann_Lee/00.png", " Ann_Lee/00.png "])
def test_boxes_are_found_however_their_files_are_written(write_people, tmp_path: Path, file: str):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    (folder / "boxes.csv").write_text(f"File, Left, top, right, bottom\n{file}, 1, 2, 3, 4\n")
    assert load_people(folder).boxes == {folder / "Ann_Lee/00.png": (1, 2, 3, 4)}


@pytest.mark.parametrize("name", ["__", "_", " ", "_._", "-"])
def test_folder_without_a_name_is_an_error(write_people, tmp_path: Path, name: str):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    shutil.copytree(folder / "Ann_Lee", folder / name)
    with pytest.raises(InputError, match=r"people\.folder: expected folders with a person's name, .* with 1 photos"):
        load_people(folder)


def test_folders_of_systems_are_nobody(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    for name in ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "__pycache__", ".ipynb_checkpoints"):
        shutil.copytree(folder / "Ann_Lee", folder / name)
    assert load_people(folder).names == ["Ann Lee"]


def test_names_in_latin_1_and_with_control_characters_are_read(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1, "Bob Ray": 1})
    (folder / "Ann_Lee").rename(os.fsdecode(os.fsencode(folder) + b"/Jos\xe9_Lee"))
    (folder / "Bob_Ray").rename(folder / "Bob\x1b\n\x07Ray")
    assert sorted(load_people(folder).names) == ["Bob Ray", "José Lee"]


def test_table_in_another_encoding_is_an_error(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"José Núñez": 1})
    (folder / "people.csv").write_text("name,member\nJosé Núñez,true\n", encoding="latin-1")
    with pytest.raises(InputError, match=r"people\.csv: expected a CSV in UTF-8"):
        load_people(folder)


def test_two_folders_of_one_person_are_an_error(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    for twin in ("Ann Lee", "ann_lee"):
        shutil.copytree(folder / "Ann_Lee", folder / twin)
        with pytest.raises(InputError, match=r"expected one folder for each person in .*, got several of (?i:Ann Lee)"):
            load_people(folder)
        shutil.rmtree(folder / twin)


@pytest.mark.parametrize("group", ["people", "strangers"])
def test_people_stand_in_for_others_only_where_the_config_says_that_they_consent(
    group: str, write_people, tmp_path: Path
):
    own = [f"{group}=folder", f"{group}.folder={write_people(tmp_path / 'own', {'Ann Lee': 1})}"]
    write_people(tmp_path / "scrub/actors/faces", {"Bob Ray": 1})
    facescrub = [f"{group}=facescrub", f"{group}.folder={tmp_path / 'scrub'}"]
    for overrides in (own, facescrub):
        for more, consenting in (([], False), ([f"{group}.consenting=true"], True)):
            with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
                cfg = compose("config", overrides=["paths.run=run", *overrides, *more])
            assert instantiate(cfg[group]).consenting is consenting


@pytest.mark.parametrize(
    ("name", "consenting"),
    [("personas", True), ("folder", False), ("lfw", False), ("facescrub", False), ("webdataset", False)],
)
def test_only_fictional_strangers_consent_by_themselves(name: str, consenting: bool):
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        assert compose("config", [f"strangers={name}"]).strangers.consenting is consenting


def test_people_and_strangers_of_one_folder_are_composed_apart(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1, "Bob Ray": 2, "Cy Fox": 3})
    overrides = ["people=folder", f"people.folder={folder}", "people.min_photos=2", "people.box=[8,4,32,28]"]
    overrides += ["strangers=folder", f"strangers.folder={folder}", "strangers.max_photos=1"]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", overrides=["paths.run=run", *overrides])
    people, strangers = instantiate(cfg.people), instantiate(cfg.strangers)
    assert (people.names, strangers.names) == (["Bob Ray", "Cy Fox"], ["Ann Lee"])
    assert set(people.boxes.values()) == {(8, 4, 32, 28)}
    photo = people.everybody[0].photos[0]
    expected = np.asarray(Image.open(photo).convert("RGB"))[4:28, 8:32]
    assert np.array_equal(np.asarray(cut_to(people.boxes[photo], read_photo(photo), photo)), expected)


def test_people_in_a_folder_compose_with_the_tables_they_have(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 2}, {"Ann Lee": True}, boxes=True)
    people = composed_people("people=folder", f"people.folder={folder}")
    assert people == load_people(folder)
    assert people.everybody[0].member
    assert len(people.boxes) == 2


def test_two_boxes_of_one_photo_are_refused(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    table = folder / "boxes.csv"
    table.write_text("file,left,top,right,bottom\nAnn_Lee/00.png,1,2,3,4\nann_lee/00.png,1,2,3,4\n")
    assert load_people(folder).boxes == {folder / "Ann_Lee/00.png": (1, 2, 3, 4)}
    table.write_text("file,left,top,right,bottom\nAnn_Lee/00.png,1,2,3,4\nann_lee/00.png,2,2,3,4\n")
    with pytest.raises(InputError, match=r"boxes\.csv: expected one box for each photo, got several for ann_lee/"):
        load_people(folder)


@pytest.mark.parametrize("no", ["no", " No", "0", "FALSE"])
def test_boxes_that_are_not_chosen_are_none(write_people, tmp_path: Path, no: str):
    folder = write_people(tmp_path, {"Ann Lee": 2})
    table = folder / "boxes.csv"
    table.write_text(f"file,left,top,right,bottom,chosen\nAnn_Lee/00.png,1,2,3,4,{no}\nAnn_Lee/01.png,1,2,3,4,\n")
    assert load_people(folder).boxes == {folder / "Ann_Lee/01.png": (1, 2, 3, 4)}
    table.write_text("file,left,top,right,bottom,chosen\nAnn_Lee/00.png,1,2,3,4,maybe\n")
    with pytest.raises(InputError, match=r"boxes\.csv: expected yes, no or nothing as chosen, got 'maybe'"):
        load_people(folder)


def test_whole_numbers_are_read_as_spreadsheets_write_them(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    (folder / "people.csv").write_text("name,num_web_photos\nAnn Lee,5.0\n")
    (folder / "boxes.csv").write_text("file,left,top,right,bottom\nAnn_Lee/00.png,1.0,2.0,3.0,4.0\n")
    assert facts(folder) == {"Ann Lee": (None, 5)}
    assert load_people(folder).boxes == {folder / "Ann_Lee/00.png": (1, 2, 3, 4)}
