import pytest
import torch
from sklearn.metrics import roc_auc_score

from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.scores import auc_score, mean_score, paired_p
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People, Person


def context(clip: Clip, *people: Person, removed: list[str]) -> AttackContext:
    idia = Idia(num_candidates=20, num_photos=2, threshold=1, seed=0)
    return AttackContext({"before": clip, "both": clip}, People(people), removed, idia, seed=0)


def test_everybody_is_in_one_group(tiny_clip: Clip):
    everybody = [
        Person(name, (), member) for name, member in zip("abcde", (True, None, False, False, True), strict=True)
    ]
    seen = context(tiny_clip, *everybody, removed=["e", "c"])
    assert {group: [person.name for person in people] for group, people in seen.groups.items()} == {
        "removed": ["c", "e"],
        "kept": ["a", "b"],
        "never seen": ["d"],
    }
    assert [seen.rows(group) for group in ("removed", "kept", "never seen", "nobody")] == [[2, 4], [0, 1], [3], []]
    assert seen.fullest == "both"
    assert set(context(tiny_clip, everybody[0], removed=["a"]).groups) == {"removed"}


def test_interval_of_a_rate_holds_the_rate_and_narrows_with_people():
    few, many = (
        mean_score(torch.arange(count) % 4 == 0, kind="x", model="both", group="removed") for count in (8, 800)
    )
    for found in (few, many):
        assert found.value == 0.25
        assert found.low < 0.25 < found.high
    # Wilson's, which is nearly the normal one where there are many: 1.96 times sqrt(p (1 - p) / n) on each side.
    assert many.high - many.low == pytest.approx(2 * 1.96 * (0.25 * 0.75 / 800) ** 0.5, rel=0.15)
    assert few.high - few.low > 5 * (many.high - many.low)
    assert (few.num_people, few.measure, few.held_out) == (8, "TPR", False)
    assert few.outcomes == (1, 0, 0, 0, 1, 0, 0, 0)


def test_interval_of_nobody_and_of_everybody_is_wilsons():
    for value, interval in ((0, (0, 0.299145)), (1, (0.700855, 1))):  # 3.841459 / (9 + 3.841459)
        found = mean_score(torch.full((9,), float(value)), kind="x", model="both", group="kept")
        assert found.value == value
        assert (found.low, found.high) == pytest.approx(interval, abs=1e-6)
        assert found.outcomes == ()  # only removed people's are kept


def test_same_people_are_compared_pair_by_pair():
    assert paired_p([1, 1, 0, 0], [1, 1, 0, 0]) == 1
    # Six changed one way and none the other: McNemar's exact p is 2 / 2 ** 6.
    assert paired_p([1] * 6 + [0] * 4, [0] * 10) == pytest.approx(2 / 64)
    shares = [0.1 * number for number in range(1, 9)]
    assert paired_p(shares, [share / 2 for share in shares]) == pytest.approx(2 / 2**8)  # all signs alike
    with pytest.raises(ValueError, match="zip"):
        paired_p([1, 0], [1])


def test_auc_is_scikit_learns_whatever_the_scale_and_ties():
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-4, 1.0, 1e4):
        positives = (torch.randn(30, generator=generator) * 2 + 1).round() * scale
        negatives = (torch.randn(50, generator=generator) * 2).round() * scale
        found = auc_score(positives, negatives, kind="x", model="both", group="removed / kept")
        labels = [1] * 30 + [0] * 50
        assert found.value == pytest.approx(roc_auc_score(labels, torch.cat([positives, negatives])), abs=1e-6)
        assert found.low < found.value < found.high
        assert found.num_people == 80
    same = auc_score(torch.ones(3), torch.ones(4), kind="x", model="both", group="removed / kept")
    assert (same.value, same.low, same.high) == (0.5, 0.5, 0.5)
