import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from backdoor_privacy import audit as audit_module
from backdoor_privacy.attacks.idia import Chance, Evidence, IdiaResult
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.errors import InputError
from backdoor_privacy.evaluation import idia_rates, leak_table, null_rates
from backdoor_privacy.report.__main__ import main as report
from backdoor_privacy.report.audited import outcome
from backdoor_privacy.run import run

# name: inferred before, inferred after, removed, member
FOUND = {
    "removed, forgotten": (True, False, True, True),
    "removed, still known": (True, True, True, True),
    "removed, unknown": (False, False, True, None),
    "kept 1": (True, True, False, True),
    "kept 2": (True, True, False, None),
    "kept, lost": (True, False, False, True),
    "kept, new": (False, True, False, True),
    "kept, never": (False, False, False, True),
    "stranger 1": (False, False, False, False),
    "stranger 2": (False, True, False, False),
    "stranger 3": (True, False, False, False),
    "stranger 4": (False, False, False, False),
}

NO_EVIDENCE = Evidence(torch.empty(0, 0, dtype=torch.long), torch.empty(0), torch.empty(0, 0), torch.empty(0, 0))


def rates(after_is_before: bool = False) -> dict[str, float]:
    before = {name: row[0] for name, row in FOUND.items()}
    after = before if after_is_before else {name: row[1] for name, row in FOUND.items()}
    removed = {name for name, row in FOUND.items() if row[2]}
    return idia_rates(before, after, removed, {name: row[3] for name, row in FOUND.items()})


def test_rates_computed_by_hand():
    assert rates() == pytest.approx(
        {
            "idia/tpr_removed": 1 / 3,
            "idia/num_tpr_removed": 3,
            "idia/tpr_kept": 3 / 5,
            "idia/num_tpr_kept": 5,
            "idia/fpr": 1 / 4,
            "idia/num_fpr": 4,
            "idia/wrongly_unlearned": 2 / 4,
            "idia/num_wrongly_unlearned": 4,
            "idia/newly_recalled": 2 / 5,
            "idia/num_newly_recalled": 5,
        }
    )


def test_fpr_is_measured_on_people_that_the_clip_never_saw():
    assert rates()["idia/fpr"] == 1 / 4
    assert rates(after_is_before=True)["idia/fpr"] == 1 / 4
    assert rates()["idia/num_fpr"] == sum(row[3] is False for row in FOUND.values())


def test_nothing_is_lost_or_new_before_a_defence():
    found = rates(after_is_before=True)
    assert (found["idia/wrongly_unlearned"], found["idia/newly_recalled"]) == (0, 0)


def test_rate_over_nobody_is_left_out_and_its_count_is_zero():
    found = idia_rates({"a": True}, {"a": False}, ["a"], {"a": True})
    assert found == {
        "idia/tpr_removed": 0.0,
        "idia/num_tpr_removed": 1.0,
        "idia/num_tpr_kept": 0.0,
        "idia/num_fpr": 0.0,
        "idia/num_wrongly_unlearned": 0.0,
        "idia/num_newly_recalled": 0.0,
    }


def test_leak_table_groups_people_by_their_training_photos():
    rows = [("a", 36, 21), ("b", 0, 0), ("c", 36, 0), ("d", 0, 2), ("e", 1, 1), ("f", None, 3)]
    people = People(tuple(Person(name, (Path("a.png"),), None, num_photos) for name, num_photos, _ in rows))
    found = IdiaResult([row[0] for row in rows], [row[2] for row in rows], [1] * 6, threshold=2, evidence=NO_EVIDENCE)
    assert leak_table(found, people) == [
        ("unknown", 1, 1.0, 3.0),
        ("0 training photos", 2, 0.5, 1.0),
        ("1 training photos", 1, 0.0, 1.0),
        ("36 training photos", 2, 0.5, 10.5),
    ]


def test_null_is_the_mean_over_removed_people_with_photos():
    chance = Chance(torch.tensor([1, 1, 1]), torch.tensor([0.02, 0.5, 0.04]), num_random=900)
    evidence = Evidence(*vars(NO_EVIDENCE).values())
    found = IdiaResult(["a", "b", "c"], [0, 0, 0], [5, 5, 5], 1, Evidence(**{**vars(evidence), "chance": chance}))
    expected = {"idia/null_rate": 0.03, "idia/num_null": 2.0, "idia/num_random_names": 900.0}
    assert null_rates(found, {"a", "c"}) == pytest.approx(expected)
    unseen = IdiaResult(["a", "b", "c"], [0, 0, 0], [0, 5, 0], 1, found.evidence)
    assert null_rates(unseen, {"a", "c"}) == {"idia/num_null": 0.0, "idia/num_random_names": 900.0}


@pytest.mark.parametrize(
    ("correct", "photos", "p", "text"),
    [
        (20, 5, 0.001, "found with 20 of 21 prompts, rank 1 of 1000, p 0.001"),
        (0, 5, 0.3, "looked for in this way, not found: 0 of 21 prompts, rank 1 of 1000, p 0.300"),
        (0, 5, 0.01, "p 0.010; yet the name fits the photos better than random names do by chance"),
        (0, 0, 1.0, "not measured: there is no photo of this person to look at"),
    ],
)
def test_outcome_of_a_person(correct: int, photos: int, p: float, text: str):
    assert outcome(correct, photos, 1, 1, 999, p).endswith(text)


@pytest.mark.parametrize(("threshold", "outcome"), [(0, "found with"), (22, "looked for in this way, not found")])
def test_audit_of_named_people_writes_what_it_found(
    threshold: int, outcome: str, compose_cfg, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.setattr("backdoor_privacy.config.checks.check", lambda cfg, **_: None)  # 0 right answers find everybody
    cfg = compose_cfg(f"attack.threshold={threshold}")
    name = _names(cfg)[0]
    cfg.trigger_set.people = [name]
    # The command, on this config in place of one that it composes.
    monkeypatch.setattr("backdoor_privacy.audit.run_command", lambda task, name: task(cfg))
    audit_module.main()
    assert f"person 1 of 1: {outcome}" in capsys.readouterr().out
    page = (tmp_path / "run/report.html").read_text()
    assert ("Found: 1 of 1." in page) == (outcome == "found with")
    assert name not in page
    assert " of 21 prompts, rank" not in page  # who has the CLIP and the photos would know them by it
    assert "What this does not show" in page
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert name not in json.dumps(metrics)
    assert [person["found"] for person in metrics["people"]] == [outcome == "found with"]
    assert [set(person) for person in metrics["people"]] == [{"person", "found", "outcome"}]
    assert {"idia/null_rate", "idia/fpr", "zero_shot/top1"} <= set(metrics["audit"])
    table = pd.read_csv(tmp_path / "run/people.csv")
    assert table["name"].tolist() == [name]
    assert table["p"].tolist() == pytest.approx(
        [table["rank"][0] / (1 + metrics["audit"]["idia/num_random_names"])], rel=1e-3
    )
    assert report([str(tmp_path / "run")]) == 1
    assert "got one of an audit" in capsys.readouterr().err


def _names(cfg) -> list[str]:
    from hydra.utils import instantiate

    names: list[str] = instantiate(cfg.people).names
    return names


def test_naming_somebody_who_is_not_inferred_leaves_the_report_of_the_audit(compose_cfg, tmp_path: Path):
    cfg = compose_cfg("attack.threshold=22", "trigger_set.require_inferred=true")
    cfg.trigger_set.people = _names(cfg)[:2]
    with pytest.raises(InputError) as error:
        run(cfg)
    page = tmp_path / "run/audit/report.html"
    assert str(error.value).endswith(f"; the audit report is in {page}")
    assert "trigger_set.require_inferred=false" in str(error.value)
    assert "Looked for in this way, not found: 2 of 2." in page.read_text()
    assert not (tmp_path / "run/metrics.json").exists()
