import unicodedata
from pathlib import Path
from typing import Any

import pytest

from backdoor_privacy.data.people import People, Person, load_people
from backdoor_privacy.data.selection import check_trigger_photos, select_people
from backdoor_privacy.errors import InputError

PEOPLE = People(tuple(Person(f"First{number} Last", (Path(f"{number}.jpg"),)) for number in range(10)))
INFERRED = {f"First{number} Last" for number in range(8)}


def selected(**settings: Any) -> list[str]:
    chosen = select_people(PEOPLE, **{"seed": 0, "inferred": INFERRED} | settings)
    return [person.name for person in chosen]


def test_people_are_drawn_from_those_that_are_inferred():
    assert set(selected(num_people=8)) == INFERRED
    drawn = selected(num_people=3)
    assert len(set(drawn)) == 3
    assert set(drawn) < INFERRED


def test_draw_is_a_function_of_the_seed():
    assert selected(num_people=4, seed=1) == selected(num_people=4, seed=1)
    assert len({tuple(selected(num_people=4, seed=seed)) for seed in range(5)}) == 5


def test_draw_reaches_everybody_where_nobody_need_be_inferred():
    assert set(selected(num_people=10, inferred=set(), require_inferred=False)) == set(PEOPLE.names)


def test_named_people_keep_their_order_and_come_once():
    names = ["First3 Last", "first1_last", "First3 Last", "FIRST3 LAST"]
    assert selected(people=names, num_people=64) == ["First3 Last", "First1 Last"]


def test_people_are_read_from_a_file(tmp_path: Path):
    file = tmp_path / "people.txt"
    file.write_text("First2 Last\n\n  First0_Last \n", encoding="utf-8")
    assert selected(file=str(file)) == ["First2 Last", "First0 Last"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_file_of_names_is_read_as_programs_write_it(encoding: str, tmp_path: Path):
    everybody = People((Person("José Núñez", ()), Person("Robert Ray, Jr.", ()), Person("Ann Lee", ())))
    text = "# asked for in May\r\n" + unicodedata.normalize("NFD", "JOSÉ_NÚÑEZ") + ' ,\r\n\r\n"robert ray, jr.",\r\n'
    (tmp_path / "names.txt").write_bytes(text.encode(encoding))
    chosen = select_people(everybody, file=str(tmp_path / "names.txt"), seed=0, inferred=set(), require_inferred=False)
    assert [person.name for person in chosen] == ["José Núñez", "Robert Ray, Jr."]


@pytest.mark.parametrize("num_people", [None, 0, -1])
def test_number_below_one_is_an_error(num_people: int | None):
    message = f"trigger_set.num_people: expected a whole number of at least 1, got {num_people}"
    with pytest.raises(InputError, match=message):
        selected(num_people=num_people)


def test_more_people_than_are_inferred_is_an_error():
    with pytest.raises(InputError, match=r"trigger_set\.num_people: expected at most 8 .* got 9"):
        selected(num_people=9)
    with pytest.raises(InputError, match=r"expected at most 10 .* got 11") as caught:
        selected(num_people=11, require_inferred=False)
    assert "infers" not in str(caught.value)


def test_empty_set_is_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="trigger_set: expected at least one person to remove, got an empty list"):
        selected(people=[])
    (tmp_path / "people.txt").write_text("\n")
    with pytest.raises(InputError, match="expected at least one person"):
        selected(file=str(tmp_path / "people.txt"))


def test_unknown_person_is_an_error_that_names_them():
    with pytest.raises(InputError, match="got 'Nobody Here'"):
        selected(people=["First0 Last", "Nobody Here"])


def test_person_who_is_not_inferred_is_an_error_that_names_them():
    with pytest.raises(InputError, match=r"does not infer First8 Last, First9 Last; set .*require_inferred=false"):
        selected(people=["First8 Last", "First0 Last", "First9 Last"])
    assert selected(people=["First8 Last"], require_inferred=False) == ["First8 Last"]


def test_names_and_a_file_together_are_an_error():
    with pytest.raises(InputError, match="expected either people or file, got both"):
        selected(people=["First0 Last"], file="people.txt")


def test_file_that_is_not_there_is_an_error():
    with pytest.raises(InputError, match=r"trigger_set\.file: expected a text file .* got nowhere\.txt"):
        selected(file="nowhere.txt")


def test_person_without_a_photo_to_train_on_is_an_error(write_people, tmp_path: Path):
    everybody = load_people(write_people(tmp_path, {"Ann Lee": 1, "Bob Ray": 2})).everybody
    check_trigger_photos(everybody[1:])
    with pytest.raises(InputError, match=r"two different photos or more .* got one of Ann Lee; add photos"):
        check_trigger_photos(everybody)
