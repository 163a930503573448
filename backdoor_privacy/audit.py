"""Run the attack and the utility measures on a CLIP: the same function before and after a defence."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from backdoor_privacy.attacks.idia import Idia, IdiaResult
from backdoor_privacy.clip import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.utility.zero_shot import ZeroShot


@dataclass(frozen=True)
class Audit:
    """What was found out about one CLIP."""

    idia: IdiaResult
    utility: dict[str, float]


def audit(clip: Clip, people: People, attack: Idia, zero_shot: ZeroShot) -> Audit:
    """Attack everybody, then measure what the CLIP is good for."""
    return Audit(attack.run(clip, people.everybody), zero_shot.measure(clip))


def idia_rates(
    before: Mapping[str, bool], after: Mapping[str, bool], removed: Collection[str], members: Mapping[str, bool | None]
) -> dict[str, float]:
    """Rates over the same people, candidates and photos, each with the number of people behind it.

    Args:
        before: whether each person was inferred from the untouched CLIP.
        after: the same for the audited one.
        removed: names of the people removed.
        members: whether each person was in the training data; `None` (nobody knows) counts as member.

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
    counts = {f"idia/num_{group}": float(len(found)) for group, found in groups.items()}
    return {f"idia/{group}": sum(found) / len(found) for group, found in groups.items() if found} | counts
