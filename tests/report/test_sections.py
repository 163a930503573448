"""What the report says of methods that describe themselves, and of runs that lack what others have."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path

import pytest

from backdoor_privacy.attacks.record import write_scores
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.errors import InputError
from backdoor_privacy.report.checks import checks
from backdoor_privacy.report.method import asked, encoders_of
from backdoor_privacy.report.parts import Drawing, Facts, Section, Table
from backdoor_privacy.report.sections import SECTIONS, sections_of
from backdoor_privacy.report.verdict import State
from backdoor_privacy.report.wording import request, verdict
from backdoor_privacy.report.writing import write_report
from backdoor_privacy.runs.finished import read_run

EDIT = "The names' directions were taken out of the text projection, in closed form."
CLOSED_FORM = {"projection": {"encoders": ["text"], "description": EDIT}}
TOGETHER = "Both encoders were trained together."
JOINT = {"pair": {"encoders": ["text", "image"], "description": TOGETHER, "limits": ["X"]}}
LOSSES = [["encoder", "step", "loss"], ["text", 0, 2.0], ["text", 1, 1.0]]


def write_run(
    folder: Path,
    models: Sequence[str] = ("text",),
    defenses: Mapping[str, object] | None = None,
    *,
    losses: Sequence[Sequence[object]] = (),
    **more: object,
) -> Path:
    """Write a run of four people: two removed and no longer inferred, one kept, one never seen."""
    before = {"idia/num_tpr_removed": 2, "idia/tpr_removed": 1.0, "zero_shot/top1": 0.9, "zero_shot/num_photos": 240.0}
    metrics = {
        "schema": 1,
        "experiment": "names_2",
        "seed": 0,
        "before": before,
        "after": {model: before | {"idia/tpr_removed": 0.0} for model in models},
        "seconds": {"defend_projection": 1.0, "defend_text": 2.0},
        "weights_sha256": {"before": "a", "after": "b"},
        "versions": {},
        **more,
    } | ({} if defenses is None else {"defenses": defenses})
    folder.mkdir(parents=True)
    (folder / "defended").mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    columns = [f"{column}_{model}" for model in ("before", *models) for column in ("correct_prompts", "inferred")]
    rows: list[list[object]] = [["name", "member", "removed", "num_photos", *columns]]
    for number, (is_removed, is_member) in enumerate([(True, True), (True, True), (False, True), (False, False)]):
        after = [0, False] if is_removed or not is_member else [21, True]
        rows.append([f"Person {number}", is_member, is_removed, 5, 21 * is_member, is_member, *after * len(models)])
    for name, table in {"people": rows, "losses": losses}.items():
        if table:
            with (folder / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(table)
    return folder


def titles(sections: Sequence[Section]) -> list[str]:
    return [section.title for section in sections]


def test_report_and_card_say_what_the_method_says_of_itself(tmp_path: Path):
    folder = write_run(tmp_path / "run", defenses=CLOSED_FORM)
    write_report(folder)
    for name in ("report.html", "defended/README.md"):
        text = unescape((folder / name).read_text())
        assert EDIT.rstrip(".") in text
        assert "tell whoever gets the model" in text
        assert not re.search("backdoors|fine-tun|triggers", text, re.IGNORECASE)
    run = read_run(folder)
    assert asked(run)["Text encoder"] == EDIT.rstrip(".")
    assert request(run) == "Remove the names of 2 people from a CLIP (not recorded in the run folder)."


def test_run_of_an_earlier_version_is_told_as_before(tmp_path: Path):
    folder = write_run(tmp_path / "run", losses=LOSSES)
    write_report(folder)
    for name in ("report.html", "defended/README.md"):
        text = (folder / name).read_text()
        assert "The defence works by inserting backdoors" in text
    assert "Fine-tune the text encoder" in (folder / "report.html").read_text()


def test_method_that_is_not_trained_has_no_losses_and_no_figure_of_them(tmp_path: Path):
    folder = write_run(tmp_path / "run", defenses=CLOSED_FORM)
    write_report(folder)
    assert {path.name for path in (folder / "figures").iterdir()} == {"idia.svg", "idia.png"}
    last, record = sections_of(read_run(folder))[-2:]
    assert (last.title, last.drawings) == ("Time taken", [])
    (seconds,) = (part for part in last.gallery if isinstance(part, Facts))
    assert seconds.rows["Defend the text encoder (projection)"] == "1.0"
    assert record.title == "Record"


def test_figure_of_losses_goes_with_them(tmp_path: Path):
    folder = write_run(tmp_path / "run", losses=LOSSES)
    write_report(folder)
    assert (folder / "figures/losses.svg").is_file()
    (folder / "losses.csv").unlink()
    write_report(folder)
    assert not (folder / "figures/losses.svg").exists()


def test_defence_of_both_encoders_at_once_is_told_as_one(tmp_path: Path):
    folder = write_run(tmp_path / "run", ("both",), JOINT)
    write_report(folder)
    run = read_run(folder)
    assert encoders_of(run) == ["text", "image"]
    assert asked(run)["Text and image encoders"] == TOGETHER.rstrip(".")
    assert request(run).startswith("Remove the names and faces of 2 people")
    assert "With both encoders defended, IDIA infers none of the 2 removed people" in verdict(run)
    page = (folder / "report.html").read_text()
    assert "<li>X</li>" in page
    assert "after: both" in page
    assert "only</th>" not in page


@pytest.mark.parametrize(("found", "state"), [(None, State.NOT_SHOWN), (0.0, State.PASSED), (1.0, State.FAILED)])
def test_tower_swap_of_encoders_that_were_not_audited_alone_is_that_of_the_attack(
    tmp_path: Path, found: float | None, state: State
):
    folder = write_run(tmp_path / "run", ("both",), JOINT)
    if found is not None:
        swapped = {"text": "original image encoder", "image": "original text encoder"}
        findings = [
            Score(kind, model, group, "TPR", value, 0, 1, 2)
            for model, kind in swapped.items()
            for group, value in (("removed", found), ("never seen", 0.0))
        ]
        write_scores(folder / "attacks/tower_swap.json", "x", findings, 1.0)
    states = {check.state for check in checks(read_run(folder)) if check.label.endswith("tower swap)")}
    states |= {check.state for check in checks(read_run(folder)) if check.label == "tower swap"}
    assert states == {state}


def test_measure_is_told_under_the_label_that_it_gave_itself(tmp_path: Path):
    label = {"title": "Linear probe", "note": "of 5 photos", "column": "probe"}
    folder = write_run(tmp_path / "run", defenses=CLOSED_FORM, utility={"zero_shot/top1": label})
    (utility,) = (one for one in sections_of(read_run(folder)) if one.name == "utility")
    table = utility.parts[0]
    assert isinstance(table, Table)
    (row,) = table.rows
    assert (row.label, row.note) == ("Linear probe", "of 5 photos")


def test_each_section_is_left_out_or_has_a_title_of_its_own(tmp_path: Path):
    run = read_run(write_run(tmp_path / "run", losses=LOSSES))
    found = [make(run) for make in SECTIONS]
    left_out = {make.__name__ for make, section in zip(SECTIONS, found, strict=True) if section is None}
    assert left_out == {"names", "attacks"}
    sections = sections_of(run)
    assert len({section.name for section in sections}) == len(set(titles(sections))) == len(sections)
    names = [part.name for section in sections for part in section.gallery if isinstance(part, Drawing)]
    assert names == ["idia", "losses"]


@pytest.mark.parametrize(
    "odd",
    [
        {"defenses": {"x": {"encoders": "text", "description": ""}}},
        {"defenses": {"x": {"encoders": ["text"]}}},
        {"defenses": {"x": {"encoders": ["text"], "description": "", "limits": [3]}}},
        {"defenses": {"x": {"encoders": ["text"], "description": "", "parts": "captions"}}},
        {"defenses": {"x": {"encoders": ["text"], "description": "", "more": "x"}}},
        {"utility": {"zero_shot/top1": {"title": "x"}}},
        {"utility": {"zero_shot/top1": "x"}},
    ],
)
def test_odd_description_is_an_error_in_one_line(tmp_path: Path, odd: dict[str, object]):
    folder = write_run(tmp_path / "run", **odd)
    with pytest.raises(InputError, match=r"metrics\.json: expected what a finished run writes"):
        read_run(folder)
