import pytest
import torch

from backdoor_privacy.attacks.idia import Evidence, IdiaResult
from backdoor_privacy.audit import idia_rates, leak_table
from backdoor_privacy.data.people import People, Person

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


def test_trap_5_fpr_is_measured_on_people_that_the_clip_never_saw():
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
    people = People(tuple(Person(name, (), None, num_photos) for name, num_photos, _ in rows))
    found = IdiaResult([row[0] for row in rows], [row[2] for row in rows], [1] * 6, threshold=2, evidence=NO_EVIDENCE)
    assert leak_table(found, people) == [
        ("unknown", 1, 1.0, 3.0),
        ("0 training photos", 2, 0.5, 1.0),
        ("1 training photos", 1, 0.0, 1.0),
        ("36 training photos", 2, 0.5, 10.5),
    ]
