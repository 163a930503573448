import csv
import hashlib
import shutil
from pathlib import Path

import pytest

from backdoor_privacy.data.people import People, Person, load_people
from backdoor_privacy.errors import InputError


def content(paths: tuple[Path, ...]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_folders_become_people(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 3, "Jean-Luc de la Tour": 2})
    (folder / "Nobody_Here").mkdir()
    (folder / "Ann_Lee/notes.txt").write_text("no photo")
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


@pytest.mark.parametrize("name", ["Bob Ray", "Bob_Ray", "bob ray", "BOB_RAY", " Bob Ray "])
def test_people_are_picked_by_name_in_any_case_and_with_underscores(people: People, name: str):
    assert [person.name for person in people.pick([name, "Ann Lee"])] == ["Bob Ray", "Ann Lee"]


def test_picking_somebody_who_is_not_there_names_them(people: People):
    with pytest.raises(InputError, match=r"expected .*people in the data \(6 of them\), got 'Ann Li', 'Zoe'"):
        people.pick(["Ann Lee", "Ann Li", "Zoe"])


def test_names_with_accents_and_other_letters_are_found():
    people = People((Person("José Núñez", ()), Person("李 小龙", ()), Person("STRASSE Groß", ())))
    assert [person.name for person in people.pick(["josé_núñez", "李_小龙", "strasse gross"])] == people.names


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
    ],
)
def test_table_that_holds_something_else_is_an_error(
    write_people, tmp_path: Path, table: str, content: str, message: str
):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    (folder / table).write_text(content)
    with pytest.raises(InputError, match=message):
        load_people(folder)


def test_two_folders_of_one_person_are_an_error(write_people, tmp_path: Path):
    folder = write_people(tmp_path, {"Ann Lee": 1})
    shutil.copytree(folder / "Ann_Lee", folder / "Ann Lee")
    with pytest.raises(InputError, match=r"expected one folder for each person in .*, got several of Ann Lee"):
        load_people(folder)
