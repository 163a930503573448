"""The numbers that attacks find, with their intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from scipy.stats import binomtest, wilcoxon
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from backdoor_privacy.attacks.chance import wilson
from backdoor_privacy.attacks.idia import Chance

RANDOM = "random names"  # a group: names that are nobody's, on the photos of removed people
RANK_P = "rank p"  # a measure: how likely the own name fits the photos so well by chance
_NUM_RESAMPLES = 1000
_CONFIDENCE = 0.95


class Score(NamedTuple):
    """One number that an attack found, with its 95 % interval: Wilson's of a rate of people, else the bootstrap."""

    kind: str  # what of the attack, as `initials` of the name variants
    model: str  # of `AttackContext.clips`
    group: str  # of `AttackContext.groups`, or which two were told apart, or `RANDOM`
    measure: str  # as `TPR`, `accuracy`, `AUC`
    value: float
    low: float
    high: float
    num_people: int
    held_out: bool = False  # whether no defence may have trained on this kind
    outcomes: tuple[float, ...] = ()  # of each removed person, in the order of the collection, to pair two findings


def mean_score(
    values: Float[Tensor, "person"] | Bool[Tensor, "person"],
    *,
    kind: str,
    model: str,
    group: str,
    measure: str = "TPR",
    held_out: bool = False,
) -> Score:
    """Average over people: as a rate of those who were found, with Wilson's interval, or of any other number."""
    values = values.float()
    if set(values.tolist()) <= {0.0, 1.0}:
        low, high = wilson(int(values.sum()), len(values))
    else:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(values), (_NUM_RESAMPLES, len(values)), generator=generator)
        low, high = interval(values[drawn].mean(1))
    outcomes = tuple(round(value, 4) for value in values.tolist()) if group == "removed" else ()
    return Score(kind, model, group, measure, values.mean().item(), low, high, len(values), held_out, outcomes)


def chance_scores(chance: Chance, removed: Sequence[int], *, kind: str, model: str) -> list[Score]:
    """Return what an attack makes of random names on the photos of the removed people, whose places are given.

    Two findings: how often one is inferred in place of the own name (group `RANDOM`), and the p-values of the ranks of
    the own names among them, see `attacks.chance`; none where there are no random names.
    """
    if not chance.num_random or not removed:
        return []
    p_values = chance.ranks[removed] / (1 + chance.num_random)
    return [
        mean_score(chance.rates[removed], kind=kind, model=model, group=RANDOM),
        mean_score(p_values, kind=kind, model=model, group="removed", measure=RANK_P),
    ]


def paired_p(one: Sequence[float], other: Sequence[float]) -> float:
    """Return how likely so uneven a change of the same people's outcomes is by chance, two-sided.

    McNemar's exact test where they are found or not, Wilcoxon's signed-rank test where they are found more or less.

    Raises:
        ValueError: if they are not as many.
    """
    changes = [after - before for before, after in zip(one, other, strict=True) if after != before]
    if not changes:
        return 1.0
    if set(map(abs, changes)) == {1.0}:
        return float(binomtest(sum(change > 0 for change in changes), len(changes)).pvalue)
    return float(wilcoxon(changes).pvalue)


def auc_score(
    positives: Float[Tensor, "person"], negatives: Float[Tensor, "other"], *, kind: str, model: str, group: str
) -> Score:
    """Measure how well a score tells two groups apart: the area under the ROC curve, 0.5 for chance."""
    generator = torch.Generator().manual_seed(0)
    resampled = []
    for _ in range(_NUM_RESAMPLES // 5):
        drawn = [
            scores[torch.randint(len(scores), (len(scores),), generator=generator)] for scores in (positives, negatives)
        ]
        resampled.append(_auc(*drawn))
    low, high = interval(torch.tensor(resampled))
    num_people = len(positives) + len(negatives)
    return Score(kind, model, group, "AUC", _auc(positives, negatives), low, high, num_people)


def _auc(positives: Tensor, negatives: Tensor) -> float:
    # Ranks in place of scores: the metric would squash what lies outside [0, 1].
    ranks = torch.cat([positives, negatives]).unique(return_inverse=True)[1]
    labels = torch.cat([torch.ones(len(positives)), torch.zeros(len(negatives))]).long()
    return binary_auroc(ranks.double() / max(1, int(ranks.max())), labels).item()


def interval(resampled: Float[Tensor, "resample"]) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of a resampled measure."""
    tail = (1 - _CONFIDENCE) / 2
    low, high = resampled.double().quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
