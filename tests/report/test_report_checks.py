"""What the verdict of whole runs is, from their files."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from backdoor_privacy.attacks.record import write_scores
from backdoor_privacy.attacks.scores import RANDOM, RANK_P, Score
from backdoor_privacy.report.checks import checks
from backdoor_privacy.report.verdict import State
from backdoor_privacy.report.wording import status, verdict
from backdoor_privacy.report.writing import write_report
from backdoor_privacy.runs.finished import FinishedRun, read_run

MODELS = ("text", "image", "both")
MakeRun = Callable[..., Path]


def write_table(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run with the numbers of removed, of other and of never-seen people, and whom models still infer."""

    def make(
        *,
        removed: int = 2,
        found: dict[str, int] | None = None,
        others: int = 100,
        lost: int = 0,
        never_seen: int = 50,
        top1: float | None = 0.9,
        p: float | None = 0.5,
        models: Sequence[str] = MODELS,
        photos: int = 5,
        num_random: int = 900,
        attacks: bool = True,
        variants: int = 0,
        null_rate: float | None = None,
    ) -> Path:
        found, columns = found or {}, ("before", *models)
        header = ["name", "member", "removed", "num_photos"]
        header += [f"{column}_{model}" for model in columns for column in ("correct_prompts", "inferred")]
        header += [f"p_{model}" for model in columns] if p is not None else []
        rows = []
        for group, count in (("removed", removed), ("other", others), ("never", never_seen)):
            for row in range(count):
                known = {"before": group != "never"}
                for model in models:
                    known[model] = row < found.get(model, 0) if group == "removed" else group == "other" and row >= lost
                asked = [value for model in columns for value in (21 * known[model], known[model])]
                num_photos = photos if group == "removed" else 5
                asked = asked if num_photos else [""] * len(asked)
                ranks = [p] * len(columns) if p is not None else []
                member = "" if not never_seen else group != "never"
                rows.append([f"{group} {row}", member, group == "removed", num_photos, *asked, *ranks])
        write_table(tmp_path / "people.csv", [header, *rows])
        counted = removed if photos else 0
        before = {
            "idia/num_tpr_removed": counted,
            "idia/num_random_names": num_random,
            "idia/num_wrongly_unlearned": others,
        }
        before |= {"idia/tpr_removed": 1.0} if counted else {}
        after = {model: dict(before) for model in models}
        for measures in after.values():
            measures |= {"idia/wrongly_unlearned": lost / others} if others else {}
            measures |= {} if null_rate is None else {"idia/null_rate": null_rate}
            measures |= {} if top1 is None else {"zero_shot/top1": top1}
        before |= {} if top1 is None else {"zero_shot/top1": 0.9}
        metrics = {
            "schema": 1,
            "experiment": "x",
            "seed": 0,
            "before": before,
            "after": after,
            "seconds": {"load": 1.0},
        }
        metrics["seconds"] = {"load": 1.0}
        metrics |= {"weights_sha256": {"before": "a", "after": "b"}, "versions": {"torch": "2"}}
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        write_table(tmp_path / "losses.csv", [["encoder", "step", "loss"], *([one, 0, 1.0] for one in models[:2])])
        if attacks:
            _write_attacks(tmp_path, models, removed, found, variants, p)
        return tmp_path

    return make


def _write_attacks(
    folder: Path, models: Sequence[str], removed: int, found: dict[str, int], variants: int, p: float | None
) -> None:
    def rate(kind: str, model: str, group: str, value: float, count: int) -> Score:
        return Score(kind, model, group, "TPR", value, 0, 1, count)

    kinds = {"text": "original image encoder", "image": "original text encoder"}
    swapped = [
        rate(kinds.get(one, "nothing swapped"), one, "removed", found.get(one, 0) / removed, removed) for one in models
    ]
    swapped += [one._replace(group="never seen", value=0.0, num_people=50) for one in swapped]
    full = models[-1]
    spelt = [
        rate("any kind", full, "removed", variants / removed, removed),
        rate("any kind", full, RANDOM, 0.01, removed),
    ]
    if p is not None:
        spelt.append(Score("any kind", full, "removed", RANK_P, p, 0, 1, removed, False, (p,) * removed))
    write_scores(folder / "attacks/tower_swap.json", "x", swapped, 1.5)
    write_scores(folder / "attacks/variants.json", "x", spelt, 70.5)


def first_sentence(run: FinishedRun) -> str:
    return verdict(run).split(". ")[0]


@pytest.mark.parametrize(
    ("changes", "colour", "words"),
    [
        ({}, "green", "Green because all conditions passed: the exact name: 0 of 2 people found (allowed: 0)"),
        ({"removed": 1}, "green", "the exact name: 0 of 1 person found (allowed: 0)"),
        ({"removed": 64, "p": None}, "green", "image encoder alone (tower swap): 0 of 64 people found (allowed: 0)"),
        (
            {"removed": 64, "found": {"image": 30}},
            "red",
            "Red because 1 condition failed: the image encoder alone (tower swap): 30 of 64 people found (allowed: 0)",
        ),
        ({"others": 21, "lost": 13}, "red", "1 condition failed: others lost: 13 of 21, 61.9% (allowed: 5%)"),
        ({"found": {"both": 1}}, "red", "1 condition failed: the exact name: 1 of 2 people found (allowed: 0)"),
        ({"p": 0.002}, "red", "the exact name, by rank: 2 of 2 better than chance, lowest p below 0.01 (allowed"),
        ({"variants": 2}, "red", "Red because 1 condition failed: name variants: 2 of 2 people found (allowed: 0)"),
        ({"top1": 0.8}, "red", "Red because 1 condition failed: zero-shot top-1: 0.100 lost (allowed: 0.02)"),
        ({"top1": None}, "amber", "1 condition is not shown to be met: zero-shot top-1: not measured"),
        ({"others": 0}, "amber", "1 condition is not shown to be met: others lost: not measured"),
        ({"models": ("text",)}, "amber", "1 condition is not shown to be met: tower swap: not measured"),
        ({"attacks": False}, "amber", "are not shown to be met: tower swap: not measured; name variants: not measured"),
        ({"p": None}, "amber", "4 conditions are not shown to be met: the exact name, by rank: not measured"),
        ({"num_random": 30}, "amber", "not shown to be met: the exact name, by rank: not measured (allowed: p"),
        ({"photos": 0}, "amber", "are not shown to be met: the exact name: not measured; removed people without"),
        ({"never_seen": 0, "null_rate": 0.004}, "green", "all conditions passed"),
        ({"never_seen": 0, "found": {"both": 1}, "null_rate": 0.004}, "red", "1 of 2 people found (allowed: 0)"),
        ({"removed": 64, "never_seen": 0, "found": {"both": 1}, "null_rate": 0.02}, "green", "1 of 64 people found"),
        ({"removed": 64, "never_seen": 0, "found": {"both": 2}, "null_rate": 0.02}, "amber",
         "the exact name: 2 of 64 people found, upper bound of the rate 0.107 (allowed: 3, and an upper bound of 0.1)"),
    ],
)  # fmt: skip
def test_verdict_of_a_run(make_run: MakeRun, changes: dict[str, Any], colour: str, words: str) -> None:
    run = read_run(make_run(**changes))
    assert status(run) == colour, checks(run)
    assert words in first_sentence(run)


def test_page_opens_with_the_verdict_and_its_conditions(make_run: MakeRun) -> None:
    folder = make_run(others=21, lost=13)
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '<p class="verdict red">Red because 1 condition failed: others lost: 13 of 21' in page
    assert page.index("Which conditions passed?") < page.index("Are the removed people still inferred?")
    assert page.index("Are the removed people still inferred?") < page.index("What was asked and done")
    assert "Attack: variants" in page
    assert "70.5" in page


def test_unfinished_attacks_are_named_with_the_command(make_run: MakeRun) -> None:
    run = read_run(make_run(attacks=False))
    assert "To measure what is missing: python -m backdoor_privacy.attack <run> tower_swap variants." in verdict(run)


def test_findings_of_an_earlier_version_are_no_proof(make_run: MakeRun) -> None:
    folder = make_run()
    worst = Score("hyphens", "both", "removed", "TPR", 0.0, 0, 1, 2)
    write_scores(folder / "attacks/variants.json", "x", [worst], 1.0)
    found = {check.label: check for check in checks(read_run(folder))}
    assert found["name variants"].state is State.NOT_SHOWN
    write_scores(folder / "attacks/variants.json", "x", [worst._replace(value=1.0)], 1.0)
    found = {check.label: check for check in checks(read_run(folder))}
    assert found["name variants"].state is State.FAILED


def test_attack_on_fewer_people_or_without_a_number_is_no_proof(make_run: MakeRun) -> None:
    folder = make_run()
    fewer = Score("any kind", "both", "removed", "TPR", 0.0, 0, 1, 1)
    for finding in (fewer, fewer._replace(value=float("nan"), num_people=2)):
        write_scores(folder / "attacks/variants.json", "x", [finding], 1.0)
        found = {check.label: check for check in checks(read_run(folder))}
        assert found["name variants"].state is State.NOT_SHOWN


def test_tower_swap_that_finds_more_than_the_audit_fails(make_run: MakeRun) -> None:
    folder = make_run(removed=64, never_seen=0, null_rate=0.02, p=None, found={"image": 3})
    swapped = [
        Score(kind, model, group, "TPR", value, 0, 1, 64)
        for kind, model in (("original text encoder", "image"), ("original image encoder", "text"))
        for group, value in (("removed", 0.5), (RANDOM, 0.02))
    ]
    write_scores(folder / "attacks/tower_swap.json", "x", swapped, 1.0)
    found = {check.label: check for check in checks(read_run(folder))}
    check = found["the image encoder alone (tower swap)"]
    assert (check.state, check.measured) == (State.FAILED, "32 of 64 people found")


def test_report_without_photos_says_what_is_not_measured(make_run: MakeRun) -> None:
    folder = make_run(photos=0, top1=None, others=0)
    write_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '<p class="verdict amber">' in page
    assert "Not measured: the run had no data to measure it with." in page
