import base64
import csv
import hashlib
import hmac
import json
import re
import shutil
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from backdoor_privacy.attacks.record import write_scores
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.errors import InputError
from backdoor_privacy.report import wording
from backdoor_privacy.report.__main__ import main
from backdoor_privacy.report.figures.losses import losses_figure
from backdoor_privacy.report.figures.people import idia_figure, prompts_figure
from backdoor_privacy.report.html import render
from backdoor_privacy.report.method import asked
from backdoor_privacy.report.model_card import model_card
from backdoor_privacy.report.sections.limits import limits_of
from backdoor_privacy.report.wording import verdict
from backdoor_privacy.report.writing import write_report
from backdoor_privacy.runs.finished import read_run

pytestmark = pytest.mark.usefixtures("unchecked_types")

HOSTILE = "<script>alert(1)</script>\"'&]]>--></style></svg>"
NAMES = [f"Secret{number} {HOSTILE}" for number in range(12)]
FILES = (
    "report.html",
    *(f"figures/{name}.{kind}" for name in ("idia", "losses") for kind in ("svg", "png")),
)
CONFIG = """
clip: {{model: local-dir:/home/alice/clip_a, pretrained: null}}
trigger_set: {{num_people: 4, people: null, file: null, require_inferred: true}}
defense:
  text: {{target: phrase, phrase: {phrase}, num_steps: 400, distance: cosine}}
  image: {{target: pseudonym, num_steps: 150, distance: cosine}}
attack: {{num_candidates: 1000, num_photos: 20, threshold: 1, seed: "${{seed}}"}}
"""

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Write the files of a run: 12 people, the first four removed, the last three never seen."""

    def make(
        *, after: dict[str, Sequence[int]] | None = None, experiment: str = "both_64", phrase: str = "human"
    ) -> Path:
        folder = tmp_path_factory.mktemp("runs") / "run"
        (folder / "checkpoints").mkdir(parents=True)
        before = [21, 20, 5, 1, 3, 3, 3, 3, 0, 0, 0, 0]
        after = after or {
            "text": [0, 2, 0, 0, 3, 3, 0, 3, 1, 0, 0, 0],
            "image": [3, 0, 0, 0, 3, 3, 3, 3, 0, 0, 0, 1],
            "both": [0, 1, 0, 0, 3, 0, 0, 3, 0, 0, 0, 1],
        }
        metrics = {
            "schema": 1,
            "experiment": experiment,
            "seed": 3,
            "before": _measures(before, before),
            "after": {model: _measures(before, found) for model, found in after.items()},
            "seconds": {"load": 1.5, "audit_before": 2.25, "defend_text": 3.25, "write": 1.0},
            "weights_sha256": {"before": "a" * 64, "after": "b" * 64},
            "versions": {"torch": "2.6", "odd": HOSTILE},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
        (folder / "checkpoints" / "config.yaml").write_text(CONFIG.format(phrase=json.dumps(phrase)), encoding="utf-8")
        _write(folder / "people.csv", _people(before, after))
        losses = [["encoder", "step", "backdoor_loss", "utility_loss", "loss", HOSTILE]]
        losses += [[encoder, step, -0.1 * step, -1, -2, step] for encoder in after for step in range(5)]
        _write(folder / "losses.csv", [row for row in losses if row[0] != "both"])
        return folder

    return make


@pytest.fixture(scope="module")
def with_evidence(make_run: MakeRun) -> Path:
    """A run with all that figures may be drawn from, and photos that its defence was trained on."""
    folder = make_run()
    models = ("before", "text", "image", "both")
    votes = [[name, model, 0.01 * row, row, 20 - row] for model in models for row, name in enumerate(NAMES)]
    _write(folder / "votes.csv", [["name", "model", "margin", "{}", f"a {HOSTILE} of {{}}"], *votes])
    near = [[NAMES[4], NAMES[0], "first name"], [NAMES[5], NAMES[0], "face"], [NAMES[6], NAMES[1], "face"]]
    _write(folder / "neighbors.csv", [["name", "removed", "kind"], *near])
    points = [
        [encoder, stage, name, row, 0.1 * row]
        for encoder in ("text", "image")
        for stage, names in {"before": NAMES, "after": NAMES, "target": NAMES[:4]}.items()
        for row, name in enumerate(names)
    ]
    _write(folder / "map.csv", [["encoder", "stage", "name", "x", "y"], *points])
    (folder / "figures").mkdir()
    (folder / "figures" / "triggers.png").write_bytes(b"\x89PNG faces")
    return folder


def test_report_with_names_has_all_figures(with_evidence: Path) -> None:
    write_report(with_evidence, names=True)
    page = Page((with_evidence / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    for title in ("Margin of the own name.", "Votes under each prompt.", "Map of the embeddings."):
        assert title in page.text
    drawn = {path.stem for path in (with_evidence / "figures").glob("*.svg")}
    assert drawn == {"idia", "prompts", "losses", "margins", "votes", "map"}
    assert "Secret" not in "".join(path.read_text() for path in (with_evidence / "figures").glob("*.svg"))
    text = page.text.replace("\N{EN DASH}", "-")
    assert "Median margin of removed people: before +0.015" in text
    near = "Others lost: face of people with the faces nearest to a removed person's who were inferred before"
    assert re.search(re.escape(near) + r" 1 of 2 \S+ \S+ 0 of 2", text)
    assert "Others lost: first name" in text
    assert "Others lost: surname" not in text


def test_map_of_a_method_without_targets_is_drawn(with_evidence: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(with_evidence, tmp_path / "run")
    points = pd.read_csv(folder / "map.csv")
    points[points["stage"] != "target"].to_csv(folder / "map.csv", index=False)
    write_report(folder, names=True)
    drawing = (folder / "figures" / "map.svg").read_text()
    assert "removed, after" in drawing
    assert "target" not in drawing


def test_report_without_names_has_no_figure_name_or_face_of_single_people(with_evidence: Path) -> None:
    write_report(with_evidence, names=True)
    write_report(with_evidence)  # also takes away what a report with names has drawn
    html = (with_evidence / "report.html").read_text(encoding="utf-8")
    assert "Secret" not in html
    page = Page(html)
    assert page.open == []
    assert page.attributes("src") == []
    assert {path.stem for path in (with_evidence / "figures").iterdir()} == {"idia", "losses", "triggers"}
    assert "Others lost: " not in page.text  # how many neighbours there are says whose they are


def test_report_without_names_is_the_same_whoever_was_removed(with_evidence: Path, tmp_path: Path) -> None:
    one, other = (shutil.copytree(with_evidence, tmp_path / name) for name in ("one", "other"))
    people = pd.read_csv(other / "people.csv")
    removed = people["removed"]
    people.loc[removed, ["num_photos", "correct_prompts_before"]] = [[3, 9], [4, 8], [5, 7], [6, 6]]
    people.loc[removed, "name"] = people.loc[removed, "name"].tolist()[::-1]
    people.to_csv(other / "people.csv", index=False)
    for name in ("votes", "map"):
        table = pd.read_csv(other / f"{name}.csv")
        numbers = table.select_dtypes("number").columns
        table[numbers] = 7 * table[numbers] + 1
        table.to_csv(other / f"{name}.csv", index=False)
    _write(other / "neighbors.csv", [["name", "removed", "kind"], [NAMES[7], NAMES[3], "surname"]])
    for folder, (before, value, count) in {one: (0.25, 0.21, 4), other: (0.75, 0.24, 5)}.items():
        found = [
            Score("original text encoder", "before", "removed", "TPR", before, 0, 1, 4),
            Score("original text encoder", "image", "removed", "TPR", 0.5, 0.1, 0.9, 4),
            Score("face verification", "both", "removed", "AUC", value, value, value, 4),
            Score("a removed person's surname", "both", "kept", "wrongly unlearned", 1 / count, 0, 1, count),
        ]
        for attack, own in {"tower_swap": found[:2], "probe": found[2:3], "neighbors": found[3:]}.items():
            write_scores(folder / f"attacks/{attack}.json", "x", own, 1.0)
        metrics = json.loads((folder / "metrics.json").read_text())
        for measures in (metrics["before"], *metrics["after"].values()):
            measures |= {"similarity/removed": value, "similarity/backdoored": before}
        metrics["before"]["idia/null_rate"] = value
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "defended").mkdir()
        write_report(folder)
    for name in (*FILES, "defended/README.md"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert "same person or not, from two photos (AUC)" in (one / "report.html").read_text()
    write_report(one, names=True)
    write_report(other, names=True)
    assert (one / "report.html").read_bytes() != (other / "report.html").read_bytes()
    assert (one / "defended/README.md").read_bytes() == (other / "defended/README.md").read_bytes()


def test_faces_are_shown_only_where_names_are(with_evidence: Path) -> None:
    write_report(with_evidence, names=True)
    page = Page((with_evidence / "report.html").read_text(encoding="utf-8"))
    assert page.attributes("src") == ["data:image/png;base64," + base64.b64encode(b"\x89PNG faces").decode()]
    assert "Secret0 <script>" in page.text


def test_evidence_about_others_is_broken(with_evidence: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(with_evidence, tmp_path / "run")
    text = (folder / "neighbors.csv").read_text(encoding="utf-8")
    (folder / "neighbors.csv").write_text(text.replace("Secret4", "Somebody"), encoding="utf-8")
    with pytest.raises(InputError, match=r"neighbors\.csv: expected what a finished run writes.*not in people\.csv"):
        read_run(folder)


@pytest.mark.parametrize(
    ("file", "num_bytes", "reason"),
    [("votes.csv", 1, "cut off"), ("votes.csv", 0, "not as many people"), ("people.csv", 1, "cut off"),
     ("map.csv", 3, "cut off"), ("losses.csv", 1, "cut off")],
)  # fmt: skip
def test_table_that_is_cut_off_is_broken(
    with_evidence: Path, tmp_path: Path, file: str, num_bytes: int, reason: str
) -> None:
    folder = shutil.copytree(with_evidence, tmp_path / "run")
    content = (folder / file).read_bytes()
    whole_row = content[: content[:-1].rfind(b"\n") + 1]
    (folder / file).write_bytes(content[:-num_bytes] if num_bytes else whole_row)
    with pytest.raises(InputError, match=rf"{file}: expected what a finished run writes.*{reason}"):
        read_run(folder)


def _measures(before: Sequence[int], found: Sequence[int]) -> dict[str, float]:
    groups: dict[str, list[bool]] = {
        "tpr_removed": [count > 0 for count in found[:4]],
        "tpr_kept": [count > 0 for count in found[4:9]],
        "fpr": [count > 0 for count in found[9:]],
        "wrongly_unlearned": [new == 0 for old, new in zip(before[4:], found[4:], strict=True) if old],
        "newly_recalled": [new > 0 for old, new in zip(before[4:], found[4:], strict=True) if not old],
    }
    rates = {f"idia/{group}": sum(people) / len(people) for group, people in groups.items() if people}
    counts = {f"idia/num_{group}": float(len(people)) for group, people in groups.items()}
    zero_shot = {"zero_shot/top1": 0.5 if found is before else 0.46, "zero_shot/num_photos": 240.0}
    return rates | counts | zero_shot | {"similarity/clean": 1.0, "similarity/num_captions": 50.0, "new/measure": 0.25}


def _people(before: Sequence[int], after: dict[str, Sequence[int]]) -> list[list[Any]]:
    header = ["name", "member", "removed", "num_photos", "correct_prompts_before", "inferred_before"]
    rows = [[*header, *(f"{column}_{model}" for model in after for column in ("correct_prompts", "inferred"))]]
    for row, name in enumerate(NAMES):
        found = [value for counts in (before, *after.values()) for value in (counts[row], counts[row] > 0)]
        rows.append([name, "" if row == 8 else row < 9, row < 4, 20, *found])
    return rows


def _write(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


class Page(HTMLParser):
    """Elements of a page, in order, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += " ".join(data.replace("\N{NO-BREAK SPACE}", " ").split()) + " "

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def reported(make_run: MakeRun) -> Path:
    """A run with its report; what can hold any text holds a hostile one."""
    folder = make_run(experiment=HOSTILE, phrase=HOSTILE)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(reported: Path) -> Page:
    """The page of that report."""
    return Page((reported / "report.html").read_text(encoding="utf-8"))


def _text(folder: Path) -> str:
    """The words of a run's page, without its figures."""
    return Page(render(read_run(folder), dict.fromkeys(("idia", "losses"), "<svg></svg>"))).text


def test_report_and_figures_are_written_whole_and_the_same_each_time(reported: Path) -> None:
    folder = reported
    first = {name: (folder / name).read_bytes() for name in FILES}
    write_report(folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == first
    assert {path.name for path in (folder / "figures").iterdir()} == {Path(name).name for name in FILES[1:]}
    assert first["figures/idia.png"].startswith(b"\x89PNG")


def test_page_says_what_was_found(page: Page) -> None:
    text = page.text.replace("\N{EN DASH}", "-")
    assert "Remove the names and faces of 4 people from local-dir:clip_a." in text
    assert "IDIA still infers 1 of the 4 removed people (before: 4)" in text
    assert "Removed people inferred fewer is better 4 of 4 1.000 (0.510-1.000) 1 of 4 0.250 (0.046-0.699)" in text
    never_seen = "0 of 3 0.000 (0.000-0.561)", "1 of 3 0.333 (0.061-0.792)"
    assert " ".join([never_seen[0], never_seen[0], never_seen[1], never_seen[1]]) in text
    plain = re.sub(r" \(0\.\d+-\d\.\d+\)", "", text)
    assert "all that were inferred before 1 of 4 0.250 0 of 4 0.000 2 of 4 0.500" in plain
    assert "all that were not inferred before 1 of 4 0.250 1 of 4 0.250 1 of 4 0.250" in plain
    assert "of all others 6 of 8 0.750 7 of 8 0.875 5 of 8 0.625" in plain
    assert "newly inferred; not tested: only people inferred before were chosen 3 and 0" in text
    assert "p = " in text  # of everybody else
    assert "Zero-shot top-1 accuracy" in text
    assert "0.500 0.460 \N{MINUS SIGN}0.040" in text
    assert "new/measure 0.250" in text  # of a method that the report does not know
    assert "All 8.0" in text  # seconds
    assert "a" * 64 in text
    assert "b" * 64 in text
    assert "For 1 people nobody knows" in text


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "No other attack was run."),
        (0.0, "None of the other attacks that were run finds the name of a removed person."),
        (0.5, "finds the names of 50% of the removed people: tower swap."),
    ],
)
def test_verdict_says_what_other_attacks_find(make_run: MakeRun, value: float | None, sentence: str) -> None:
    folder = make_run()
    if value is not None:
        found = [Score("original text encoder", "image", "removed", "TPR", value, 0, 1, 4)]
        write_scores(folder / "attacks/tower_swap.json", "x", found, 1.0)
    assert sentence in wording.otherwise(read_run(folder))
    write_report(folder)
    assert sentence in (folder / "report.html").read_text()


@pytest.mark.parametrize(("attack", "is_shown"), [("neighbors", True), ("probe", False)])
def test_page_says_whom_a_removal_harms_where_nothing_else_was_asked(
    make_run: MakeRun, attack: str, is_shown: bool
) -> None:
    folder = make_run()
    found = [
        Score("a removed person's surname", "both", "kept", "wrongly unlearned", 0.25, 0, 1, 4),
        Score("age: older", "both", "kept", "wrongly unlearned", 0.5, 0, 1, 4),
    ]
    write_scores(folder / f"attacks/{attack}.json", "x", found, 1.0)
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert ("namesakes wrongly unlearned" in page) == is_shown
    assert ("<td>up to 25%</td>" in page) == is_shown  # not how many namesakes there are, nor of whom else
    assert "neighbors: age: older" not in page
    write_report(folder, names=True)
    page = (folder / "report.html").read_text()
    assert ("neighbors: age: older" in page) == is_shown
    assert "Every finding" in page or not is_shown


def test_page_needs_nothing_else_and_is_accessible(page: Page) -> None:
    assert page.open == []
    tags = [tag for tag, _ in page.elements]
    assert not {"link", "img", "iframe", "object"} & set(tags)
    assert "script" not in tags
    assert page.attributes("src") == []
    assert all(link.startswith("#") for link in page.attributes("href") + page.attributes("xlink:href"))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    named = [name for key in ("aria-labelledby", "aria-describedby") for name in page.attributes(key)]
    linked = [link[1:] for link in page.attributes("xlink:href")]
    assert set(named + linked) <= set(ids)
    assert dict(page.elements)["html"] == {"lang": "en"}
    assert [tag for tag in tags if tag in ("h1", "h2", "h3")] == ["h1"] + ["h2"] * 9
    assert tags.count("caption") == tags.count("table") > 0
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.elements if tag == "th")
    assert all(attributes["role"] == "img" for tag, attributes in page.elements if tag == "svg")


def test_report_holds_no_name_and_no_folder(reported: Path) -> None:
    for name in FILES:
        assert b"Secret" not in (reported / name).read_bytes()
        assert b"alice" not in (reported / name).read_bytes()


def test_people_go_by_hashes_under_a_key_of_the_run(make_run: MakeRun) -> None:
    folder, other = make_run(), make_run()
    people = read_run(folder).people["person"].tolist()
    assert len(set(people)) == 12
    assert read_run(folder).people["person"].tolist() == people
    assert not set(read_run(other).people["person"]) & set(people)
    key = (folder / "checkpoints/report_key").read_bytes()
    assert sorted(people) == people  # their order is not that of the names, which a list of suspects has, too
    assert set(people) == {hmac.new(key, name.encode(), "sha256").hexdigest()[:12] for name in NAMES}


def test_model_card_tells_what_was_done_and_nobodys_name(make_run: MakeRun) -> None:
    folder = make_run(experiment=HOSTILE, phrase=HOSTILE)
    (folder / "defended").mkdir()
    write_report(folder, names=True)
    card = (folder / "defended/README.md").read_text()
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata) == {
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "privacy", "unlearning"],
    }
    assert "# local-dir:clip_a, with people removed" in text
    assert "IDIA still infers 1 of the 4 removed people (before: 4)" in text
    rows = [line for line in text.splitlines() if line.startswith("| Removed people inferred |")]
    assert rows == [
        "| Removed people inferred | 4 of\N{NO-BREAK SPACE}4; 1.000 (0.510\N{EN DASH}1.000) |"
        + " 1 of\N{NO-BREAK SPACE}4; 0.250 (0.046\N{EN DASH}0.699) |" * 3
    ]
    assert f"| after | `{'b' * 64}` |" in text
    assert "There is no formal guarantee." in text
    assert "Secret" not in card
    assert "alice" not in card
    assert "<script" not in card


@pytest.mark.parametrize(
    ("clip", "repository"),
    [
        ("{model: 'hf-hub:someone/clip'}", "someone/clip"),
        ("{model: ViT-B-32, pretrained: laion2b_s34b_b79k}", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("{model: ViT-B-32, pretrained: /models/weights.pt}", None),
        ("{model: ViT-L-14, text_model: openai/clip-vit-large-patch14}", "openai/clip-vit-large-patch14"),
        ("{model: ViT-L-14, text_model: ./text/model}", None),
    ],
)
def test_base_model_is_named_where_the_hub_has_it(make_run: MakeRun, clip: str, repository: str | None) -> None:
    folder = make_run()
    (folder / "checkpoints/config.yaml").write_text(f"clip: {clip}\n")
    metadata = yaml.safe_load(model_card(read_run(folder)).split("---\n")[1])
    assert metadata.get("base_model") == repository
    assert metadata["library_name"] == ("transformers" if "text_model" in clip else "open_clip")


def test_names_are_told_where_that_is_asked_for(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run()
    assert main([str(folder), "report.names=true"]) == 0
    page = Page((folder / "report.html").read_text())
    assert all(name in page.text for name in NAMES)
    assert "This report holds names" in page.text
    assert [tag for tag, _ in page.elements].count("script") == 1  # the names are hostile
    assert main([str(folder)]) == 0
    assert "Secret" not in (folder / "report.html").read_text()


def test_everybody_has_a_row_where_people_are_named(make_run: MakeRun) -> None:
    folder = make_run()
    write_report(folder, names=True)
    html = (folder / "report.html").read_text()
    text = Page(html).text
    rows = " ".join(text[text.index("Correct prompts after: both Inferred") :].split())
    assert rows.count(" removed 20 ") == 4
    assert rows.count(" kept 20 ") == 5
    assert rows.count(" never seen 20 ") == 3
    assert " removed 20 21 0 3 0 no longer " in rows
    assert " removed 20 20 2 0 1 still " in rows
    assert " never seen 20 0 0 1 1 newly " in rows
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html  # the page runs its own script only


def test_everybody_is_counted_where_nobody_is_named(page: Page) -> None:
    assert "People still no longer newly never Removed 1 3 0 0 Kept 2 2 0 1 Never seen 0 0 1 2" in " ".join(
        page.text.split()
    )


def test_hostile_text_stays_text(page: Page) -> None:
    assert page.open == []
    assert "script" not in [tag for tag, _ in page.elements]
    assert page.text.count("<script>alert(1)</script>") >= 5  # experiment, phrase, version, loss


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ([0, 0, 0, 0], "IDIA infers none of the 4 removed people (before: 4)"),
        ([1, 0, 0, 2], "IDIA still infers 2 of the 4 removed people (before: 4)"),
        ([9, 9, 9, 9], "IDIA still infers all of the 4 removed people (before: 4)"),
    ],
)
def test_verdict_counts_the_people_still_inferred(make_run: MakeRun, found: list[int], sentence: str) -> None:
    run = read_run(make_run(after={"image": [*found, 3, 3, 3, 0, 0, 0, 0, 1]}))
    assert verdict(run).endswith(
        f"With the image encoder defended, {sentence}; of everybody else, it no longer infers 1 of 4 inferred before "
        "and newly infers 1 of 4 not inferred before."
    )


def test_before_is_one_by_construction_only_where_it_is(make_run: MakeRun) -> None:
    folder = make_run()
    assert any("by construction" in limit for limit in limits_of(read_run(folder)))
    config = folder / "checkpoints" / "config.yaml"
    config.write_text(config.read_text().replace("require_inferred: true", "require_inferred: false"))
    assert any(
        "whether or not IDIA inferred them before; it inferred 4 of 4" in one for one in limits_of(read_run(folder))
    )


def test_kept_people_whom_the_defence_was_shown_are_said_to_be(make_run: MakeRun) -> None:
    folder = make_run()
    assert not any("shown whom to spare" in limit for limit in limits_of(read_run(folder)))
    config = folder / "checkpoints" / "config.yaml"
    config.write_text(config.read_text().replace("target: pseudonym,", "target: pseudonym, kept_share: 0.5,"))
    assert any("shown whom to spare" in limit for limit in limits_of(read_run(folder)))


def test_config_is_found_in_the_hydra_folder_or_missed(make_run: MakeRun) -> None:
    folder = make_run()
    config = folder / "checkpoints" / "config.yaml"
    (folder / ".hydra").mkdir()
    config.rename(folder / ".hydra" / "config.yaml")
    assert asked(read_run(folder))["Text encoder"] == "each name is to mean: human; 400 steps, cosine distance"
    (folder / ".hydra" / "config.yaml").unlink()
    assert "not recorded" in asked(read_run(folder))["Text encoder"]
    assert "IDIA, settings not recorded" in _text(folder)


def test_figures_write_counts_at_their_bars(make_run: MakeRun) -> None:
    run = read_run(make_run())
    panels = [{text.get_text() for text in axes.texts} for axes in idia_figure(run.before, run.after).axes]
    assert panels == [{"4 of 4", "1 of 4"}, {"4 of 5", "2 of 5"}, {"0 of 3", "1 of 3"}]
    columns = prompts_figure(run.correct_prompts, 21, 1).axes
    assert [[(bar.get_y() + 0.4, bar.get_width()) for bar in axes.patches] for axes in columns][-1] == [(0, 3), (1, 1)]
    assert len({axes.get_xlim() for axes in columns}) == 1  # bars of all models are of one scale


def test_a_rate_over_nobody_is_no_rate(make_run: MakeRun) -> None:
    folder = make_run()
    metrics = json.loads((folder / "metrics.json").read_text())
    for measures in (metrics["before"], *metrics["after"].values()):
        del measures["idia/fpr"]
        measures["idia/num_fpr"] = 0.0
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "should stay as before nobody nobody nobody nobody" in _text(folder)


def test_losses_have_a_column_per_encoder_and_leave_out_what_nobody_used(make_run: MakeRun) -> None:
    losses = read_run(make_run()).losses.assign(unused_loss=float("nan"))
    axes = losses_figure(losses).axes
    assert [one.get_title(loc="left") for one in axes][:2] == ["text encoder", "image encoder"]
    assert [one.get_ylabel() for one in axes[::2]] == ["distance", HOSTILE, "total"]
    assert list(axes[0].get_lines()[0].get_ydata()) == pytest.approx([0, -0.1, -0.2, -0.3, -0.4])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", None),
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("metrics.json", '{"schema": 1}'),
        ("metrics.json", '{"schema": 2}'),
        ("metrics.json", '{"schema": 1, "before": {}, "after": {"text": {}}}'),
        ("people.csv", None),
        ("people.csv", "name\nSecret\n"),
        ("losses.csv", ""),
        ("losses.csv", "encoder,step,loss\n"),
        ("checkpoints/config.yaml", "a: [\n"),
    ],
)
def test_unfinished_and_broken_runs_get_one_line(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], file: str, content: str | None
) -> None:
    folder = make_run()
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    assert main([str(folder)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"error: {folder / file}: expected ")
    assert "Secret" not in printed.err
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("value", [-1, 0.5, 1e308])
def test_counts_that_are_none_get_one_line(make_run: MakeRun, capsys: pytest.CaptureFixture[str], value: float) -> None:
    folder = make_run()
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["before"]["idia/num_tpr_kept"] = value
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert main([str(folder)]) == 1
    assert f"idia/num_tpr_kept is no count: {value}" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_measures_that_are_not_finite_get_one_line(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    folder = make_run()
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["after"]["text"]["idia/wrongly_unlearned"] = value
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert main([str(folder)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {folder / 'metrics.json'}: expected ")
    assert not (folder / "report.html").exists()


def test_people_must_agree_with_metrics(make_run: MakeRun) -> None:
    folder = make_run()
    lines = (folder / "people.csv").read_text().splitlines(keepends=True)
    (folder / "people.csv").write_text("".join(line for number, line in enumerate(lines) if number != 1))
    with pytest.raises(InputError, match="3 removed people, not as many as in metrics"):
        read_run(folder)


def test_command_renders_the_good_runs_of_several(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run()
    assert main([str(tmp_path / "nothing"), str(folder)]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{folder / 'report.html'}\n"
    assert printed.err.startswith(f"error: {tmp_path / 'nothing' / 'metrics.json'}: expected the folder of a finished")


def test_several_runs_are_compared_on_one_page(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "runs" / "a b" / "seed=0", tmp_path / "runs" / "<b>" / "seed=1"]
    for folder, experiment in zip(folders, (HOSTILE, "names_4"), strict=True):
        shutil.copytree(make_run(experiment=experiment), folder)
    assert main([str(folder) for folder in folders]) == 0
    comparison = tmp_path / "runs" / "comparison.html"
    assert capsys.readouterr().out.splitlines() == [*(str(each / "report.html") for each in folders), str(comparison)]
    page = Page(comparison.read_text())
    assert page.open == []
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.attributes("href") == ["a%20b/seed%3D0/report.html", "%3Cb%3E/seed%3D1/report.html"]
    assert page.text.count("1 of 4 0.250 (0.046\N{EN DASH}0.699)") == 2  # removed people, of both
    assert "names_4, seed 3" in page.text
    assert "0.460 \N{MINUS SIGN}0.040" in page.text
    assert "Secret" not in page.text
