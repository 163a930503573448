"""What an attack finds by chance: of names that belong to nobody, and the tests and the interval that follow."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import binom, binomtest
from torch import Tensor

SIGNIFICANCE = 0.05  # of every test


def wilson(found: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a rate of people.

    Raises:
        ValueError: if there is nobody.
    """
    low, high = binomtest(found, count).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def num_allowed(count: int, rate: float) -> int:
    """Return the largest number of people found that is not significantly more than chance finds.

    Args:
        count: people who were looked for.
        rate: at which the null finds them.
    """
    # P(X >= k) is `sf(k - 1)`.
    return max(k for k in range(count + 1) if k == 0 or binom.sf(k - 1, count, rate) >= SIGNIFICANCE)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for being several (Holm's step-down method), in their order.

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.5, 0.04])]
        [0.03, 0.5, 0.08]
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - step) * p_values[place]))
        corrected[place] = highest
    return corrected


def rank_p(rank: int, num_random: int) -> float:
    """Return how likely the own name ranks so high among random names by chance.

    Args:
        rank: 1 + the random names that fit the person's photos at least as well as the own name.
        num_random: random names.
    """
    return rank / (1 + num_random)


def ranks_among_random(
    faces: Float[Tensor, "person dim"],
    names: Float[Tensor, "candidate dim"],
    own: Int[Tensor, "person"],
    is_random: Bool[Tensor, "candidate"],
) -> Int[Tensor, "person"]:
    """Rank each person's own name among random names.

    Args:
        faces: sum or mean of each person's photos; all zeros without a photo.
        names: sum or mean of each candidate's prompts, so that a product is a mean similarity over photos and prompts.
        own: the place of each person's name among the candidates.
        is_random: which candidates are nobody's name.
    """
    return ranks_of(faces @ names.T, own, is_random)


def ranks_of(
    similarities: Float[Tensor, "person candidate"], own: Int[Tensor, "person"], is_random: Bool[Tensor, "candidate"]
) -> Int[Tensor, "person"]:
    """Rank each person's own name among random names: 1 where none of them fits the photos at least as well.

    Args:
        similarities: of each person's photos and each candidate.
        own: the place of each person's name among the candidates.
        is_random: which candidates are nobody's name.
    """
    at_least = similarities >= similarities.gather(1, own.unsqueeze(1))
    return 1 + (at_least & is_random).sum(1)


def random_rates(
    answers: Int[Tensor, "person prompt"], is_random: Bool[Tensor, "candidate"], threshold: int
) -> Float[Tensor, "person"]:
    """Return the share of random names that would be inferred on each person's photos; 0 where there is none.

    Args:
        answers: the candidate with most votes where the own name does not stand for election; -1 where there is none.
        is_random: which candidates are nobody's name.
        threshold: answers that it takes to be inferred.
    """
    rates = torch.zeros(len(answers))
    for person, won in enumerate(answers):
        times = torch.bincount(won[won >= 0], minlength=len(is_random))
        rates[person] = (times[is_random] >= threshold).sum() / max(1, int(is_random.sum()))
    return rates
