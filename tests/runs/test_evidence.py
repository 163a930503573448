import pandas as pd
import pytest
import torch

from backdoor_privacy.attacks.idia import TEMPLATES, Evidence, IdiaResult
from backdoor_privacy.attacks.neighbors import neighbors_table
from backdoor_privacy.runs.evidence import map_table, votes_table

NAMES = ["Ann Lee", "Ann Ray", "Bob Lee", "Cy Fox", "Ann-Marie Leeds", "Dee Day", "Eve Elm", "Flo Fir"]


def unit_rows(*shape: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def result(seed: int = 0) -> IdiaResult:
    own_votes = torch.arange(len(NAMES) * len(TEMPLATES)).view(len(NAMES), -1) % 5
    margins = torch.linspace(-0.1, 0.1, len(NAMES))
    features = unit_rows(len(NAMES), 6, seed=seed), unit_rows(len(NAMES), 6, seed=seed + 1)
    return IdiaResult(NAMES, [0] * len(NAMES), [4] * len(NAMES), 1, Evidence(own_votes, margins, *features))


def test_votes_are_those_of_everybody_under_each_model():
    table = votes_table({"before": result(), "text": result(5)})
    assert table.columns.tolist() == ["name", "model", "margin", *TEMPLATES]
    assert table["model"].tolist() == ["before"] * 8 + ["text"] * 8
    row = table[table["name"] == "Bob Lee"].iloc[0]
    assert row[list(TEMPLATES)].tolist() == [(42 + prompt) % 5 for prompt in range(21)]
    assert row["margin"] == pytest.approx(-0.1 + 0.2 * 2 / 7)


def test_neighbors_share_a_whole_name_or_are_nearest_in_face():
    before = result()
    table = neighbors_table(before, ["Ann Lee", "Cy Fox"])
    pairs = {kind: set(zip(rows["name"], rows["removed"], strict=True)) for kind, rows in table.groupby("kind")}
    assert pairs["first name"] == {("Ann Ray", "Ann Lee")}  # Ann-Marie is another first name
    assert pairs["surname"] == {("Bob Lee", "Ann Lee")}
    faces = before.evidence.face_features
    for removed in ("Ann Lee", "Cy Fox"):
        near = {name for name, of in pairs["face"] if of == removed}
        likeness = dict(zip(NAMES, (faces @ faces[NAMES.index(removed)]).tolist(), strict=True))
        others = [name for name in NAMES if name not in ("Ann Lee", "Cy Fox")]
        assert near == set(sorted(others, key=likeness.__getitem__)[-5:])


def test_nobody_left_is_nobodys_neighbor():
    assert neighbors_table(result(), NAMES).empty


def test_map_keeps_what_differs_most():
    # The removed move along one direction; everybody else differs in another, less.
    before, after = result(), result()
    base = torch.zeros(8, 6)
    base[:, 0], base[:, 1] = 1, torch.linspace(-0.1, 0.1, 8)
    moved = base.clone()
    moved[0, 2] = 5
    before = IdiaResult(NAMES, [0] * 8, [4] * 8, 1, Evidence(*list(vars(before.evidence).values())[:2], base, base))
    after = IdiaResult(NAMES, [0] * 8, [4] * 8, 1, Evidence(*list(vars(after.evidence).values())[:2], moved, moved))
    table = map_table(before, {"text": after}, ["Ann Lee"], {"text": moved[:1]})
    assert table.columns.tolist() == ["encoder", "stage", "name", "x", "y"]
    at = table.set_index(["stage", "name"])
    assert at.loc[("after", "Ann Lee"), "x"] - at.loc[("before", "Ann Lee"), "x"] == pytest.approx(5, abs=0.05)
    assert at.loc[("target", "Ann Lee"), "x"] == at.loc[("after", "Ann Lee"), "x"]
    pd.testing.assert_series_equal(at.loc["after", "x"].drop("Ann Lee"), at.loc["before", "x"].drop("Ann Lee"))
