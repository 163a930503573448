from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from backdoor_privacy.data.facescrub import CORRECTIONS, load_facescrub
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER

HEADER = "name\timage_id\tface_id\turl\tbbox\tsha256"
ACTORS, ACTRESSES = ["Ben Hill", "Robert Di Niro"], ["Ann Lee", "Adrianne León"]


@pytest.fixture
def folder(write_photo, tmp_path: Path) -> Path:
    """What the downloader writes of two actors and two actresses with three photos each."""
    number = 0
    for group, names in {"actors": ACTORS, "actresses": ACTRESSES}.items():
        for name in (name.replace(" ", "_") for name in names):
            for image in range(number, number + 3):
                write_photo(tmp_path / f"{group}/images/{name}/{name}_{image}.jpeg", image)
                write_photo(
                    tmp_path / f"{group}/faces/{name}/{name}_{image}_{image + 1000}.jpeg", 100 + image, (16, 16)
                )
            number += 3
    return tmp_path


def write_tables(folder: Path, *, header: bool = True) -> None:
    folder.mkdir(exist_ok=True)
    number = 0
    for group, names in {"actors": ACTORS, "actresses": ACTRESSES}.items():
        lines = [HEADER] if header else []
        for name in names:
            for image in range(number, number + 3):
                lines.append(f'{name}\t{image}\t{image + 1000}\t"http://host/a.jpg\t{image},2,{image + 9},11\tabc')
            number += 3
        (folder / f"facescrub_{group}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def composed(*overrides: str) -> People:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return instantiate(compose("config", overrides=["paths.run=run", "people=facescrub", *overrides]).people)


def files(people: People, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for person in people.everybody for path in person.photos]


def test_faces_of_actors_and_actresses_are_people(folder: Path):
    people = composed(f"people.folder={folder}")
    assert people.names == ["Ben Hill", "Robert De Niro", "Adrianne León", "Ann Lee"]
    assert files(people, folder)[:4] == [
        *(f"actors/faces/Ben_Hill/Ben_Hill_{image}_{image + 1000}.jpeg" for image in range(3)),
        "actors/faces/Robert_Di_Niro/Robert_Di_Niro_3_1003.jpeg",
    ]
    assert people.boxes == {}


@pytest.mark.parametrize("header", [True, False])
def test_whole_photos_have_the_boxes_of_the_data_sets_own_tables(folder: Path, header: bool):
    write_tables(folder, header=header)
    people = composed(f"people.folder={folder}", "people.layout='*/images/*'")
    assert files(people, folder)[3] == "actors/images/Robert_Di_Niro/Robert_Di_Niro_3.jpeg"
    assert len(people.boxes) == 12
    assert people.boxes[folder / "actors/images/Robert_Di_Niro/Robert_Di_Niro_3.jpeg"] == (3, 2, 12, 11)
    assert people.boxes[folder / "actresses/images/Adrianne_León/Adrianne_León_9.jpeg"] == (9, 2, 18, 11)
    assert composed(f"people.folder={folder}").boxes == {}  # faces are cut out already


def test_tables_of_boxes_may_lie_elsewhere(folder: Path):
    write_tables(folder / "tables")
    assert load_facescrub(folder, "*/images/*").boxes == {}
    assert len(load_facescrub(folder, "*/images/*", boxes=folder / "tables").boxes) == 12
    with pytest.raises(
        InputError, match=r"people\.boxes: expected a folder with facescrub_actors\.txt .*, got .*/actors"
    ):
        load_facescrub(folder, "*/images/*", boxes=folder / "actors")


def test_four_misspelt_names_are_corrected(write_photo, tmp_path: Path):
    misspelt = ["Freddy_Prinze_Jr.", "Leslie_Neilsen", "Robert_Di_Niro", "Tatyana_M._Ali"]
    for name in misspelt:
        write_photo(tmp_path / f"actors/faces/{name}/{name}_1_2.jpeg", 0)
    right = ["Freddie Prinze Jr", "Leslie Nielsen", "Robert De Niro", "Tatyana Ali"]
    (tmp_path / "people.csv").write_text("name,num_web_photos\n" + "".join(f"{name},{833}\n" for name in right))
    people = load_facescrub(tmp_path)
    assert people.names == right
    assert {person.num_web_photos for person in people.everybody} == {833}
    assert len(CORRECTIONS) == 4


def test_table_may_misspell_names_as_the_data_set_does(folder: Path):
    (folder / "people.csv").write_text("name,member\nRobert_Di_Niro,true\nAnn Lee,false\n")
    members = {person.name: person.member for person in load_facescrub(folder).everybody}
    assert members == {"Ben Hill": None, "Robert De Niro": True, "Adrianne León": None, "Ann Lee": False}


@pytest.mark.parametrize(
    "row",
    [
        ["Ben Hill", "0", "1000", "http://host", "1,2,3"],
        ["Ben Hill", "0", "1000", "http://host", "5,2,5,9"],
        ["Ben Hill", "0", "1000", "http://host", "a,b,c,d"],
        ["Ben Hill", "0", "1000"],
        ["Ben Hill,0,1000,http://host"],
    ],
)
def test_table_of_something_else_is_an_error_that_names_the_line(folder: Path, row: Sequence[str]):
    write_tables(folder)
    table = folder / "facescrub_actresses.txt"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([*lines[:2], "\t".join(row), *lines[2:]]), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"facescrub_actresses\.txt, line 3: expected name, image_id, .*, got \['Ben Hill"
    ):
        load_facescrub(folder, "*/images/*")


def test_table_in_another_encoding_is_an_error(folder: Path):
    write_tables(folder)
    (folder / "facescrub_actresses.txt").write_bytes("Adrianne León\t1\t2\tu\t1,2,3,4\tx\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"facescrub_actresses\.txt: expected FaceScrub's table in UTF-8"):
        load_facescrub(folder)


def test_folder_of_another_layout_is_an_error(write_people, tmp_path: Path):
    with pytest.raises(InputError, match=r"people\.folder: expected folders First_Last/ with photos at .*/\*/faces/\*"):
        load_facescrub(write_people(tmp_path, {"Ann Lee": 1}))


def test_limits_and_table_are_as_of_other_people(folder: Path, write_photo):
    write_photo(folder / "actors/faces/Ben_Hill/Ben_Hill_50_51.jpeg", 50)
    (folder / "known.csv").write_text("name,member\nBen Hill,true\n")
    people = composed(f"people.folder={folder}", "people.min_photos=4", f"people.table={folder / 'known.csv'}")
    assert [(person.name, person.member, len(person.photos)) for person in people.everybody] == [("Ben Hill", True, 4)]
