"""Audit a CLIP by the attack and the utility measures, before and after a defence in the same way."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from backdoor_privacy.attacks.idia import Idia, IdiaResult
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.utility.base import Measure


@dataclass(frozen=True)
class Audit:
    """The measurements of one CLIP."""

    idia: IdiaResult
    utility: dict[str, float]  # by keys `<measure>/...`


def audit(clip: Clip, people: People, attack: Idia, measures: Sequence[Measure]) -> Audit:
    """Attack everybody who has photos, then measure the utility."""
    result = attack.run(clip, people.with_photos.everybody, warn=True)
    return Audit(result, {key: value for measure in measures for key, value in measure.measure(clip).items()})


def idia_rates(
    before: Mapping[str, bool], after: Mapping[str, bool], removed: Collection[str], members: Mapping[str, bool | None]
) -> dict[str, float]:
    """Return the rates of IDIA on an audited CLIP, each with the number of people behind it.

    Args:
        before: whether each person was inferred from the original CLIP, by name.
        after: whether the same person is inferred from the audited CLIP, with the same candidates and photos.
        removed: names of the people removed.
        members: whether each person was in the training data; `None`, where nobody knows, counts as a member.

    Returns:
        Rates in [0, 1]; a rate over nobody is left out, its count is 0.
    """
    removed = set(removed)
    groups = {
        "tpr_removed": [after[name] for name in after if name in removed],
        "tpr_kept": [after[name] for name in after if name not in removed and members[name] is not False],
        "fpr": [after[name] for name in after if name not in removed and members[name] is False],
        "wrongly_unlearned": [not after[name] for name in after if name not in removed and before[name]],
        "newly_recalled": [after[name] for name in after if name not in removed and not before[name]],
    }
    counts = {f"idia/num_{group}": float(len(outcomes)) for group, outcomes in groups.items()}
    rates = {f"idia/{group}": sum(outcomes) / len(outcomes) for group, outcomes in groups.items() if outcomes}
    return rates | counts


def null_rates(result: IdiaResult, removed: Collection[str]) -> dict[str, float]:
    """Return how often the attack infers a random name in place of a removed person's own (`attacks.chance`).

    Returns:
        `idia/null_rate`, the mean share of random names over removed people with photos, in [0, 1]; `idia/num_null`,
        the number of these people; and `idia/num_random_names`. The rate over nobody is left out.
    """
    chance = result.evidence.chance
    if chance is None:
        return {}
    rows = [row for row, name in enumerate(result.names) if name in removed and result.num_photos[row]]
    counts = {"idia/num_null": float(len(rows)), "idia/num_random_names": float(chance.num_random)}
    is_known = bool(rows) and chance.num_random > 0
    return ({"idia/null_rate": float(chance.rates[rows].mean())} if is_known else {}) | counts


def leak_table(result: IdiaResult, people: People) -> list[tuple[str, int, float, float]]:
    """Return how much the CLIP leaks, by the number of photos of a person in its training data.

    Returns:
        A row per group: title, number of people, TPR in [0, 1] (FPR for people whom it never saw), and mean number of
        right prompts.
    """
    groups: dict[int | None, list[int]] = defaultdict(list)
    for row, person in enumerate(people.with_photos.everybody):
        groups[person.num_web_photos].append(row)
    table = []
    for num_photos, rows in sorted(groups.items(), key=lambda item: -1 if item[0] is None else item[0]):
        correct = [result.correct_prompts[row] for row in rows]
        title = "unknown" if num_photos is None else f"{num_photos} training photos"
        rate = sum(count >= result.threshold for count in correct) / len(rows)
        table.append((title, len(rows), rate, sum(correct) / len(rows)))
    return table
