"""What a report without names may say: nothing that a reader with the original CLIP and all photos can match.

Such a reader can compute everybody's exact numbers with the original CLIP and, if it is given away, with the defended
one. So a report without names holds no single people, no means over a few people and no sizes of groups that depend on
who was removed. It says how many people an attack finds, and gives coarse numbers. docs/report.md has all rules.
"""

import math

import pandas as pd

from backdoor_privacy.attacks.scores import Score

_NUM_PARTS = 20  # of a training; the report has the mean losses of each
_LEAST_STEPS = 10  # in each part: the loss of the first step alone depends on the original CLIP and the removed people
_BANDS = (0.001, 0.01, 0.05)  # of p-values
HOLDS_NAMES = "This report holds names"
HOLDS_NOBODY = "This report says nothing of single people"


def people_note(*, names: bool) -> str:
    """Say what a report, with names or without, holds of single people, and what follows from it."""
    if names:
        return f"{HOLDS_NAMES}: keep it as private as the request itself."
    return (
        f"{HOLDS_NOBODY}: whoever has the original model and the photos could recognise people by exact numbers as "
        "well as by names. It therefore counts people, and rounds all numbers about a few. The exact numbers stay in "
        "the run folder (people.csv and others): keep them as private as the request itself."
    )


def coarse_score(score: Score) -> str:
    """Return how many people a score finds or, if it is no rate of people, its value to one decimal."""
    count = num_found(score)
    return coarse_number(score.value) if count is None else f"{count:,} of\N{NO-BREAK SPACE}{score.num_people:,}"


def num_found(score: Score) -> int | None:
    """Return how many people a score counts; `None` if it is no count, but an AUC or a mean of several rates."""
    count = score.value * score.num_people
    is_rate = score.measure == "TPR" and abs(count - round(count)) < 1e-3
    return round(count) if is_rate else None


def coarse_number(value: float) -> str:
    """Return a number to one decimal."""
    return f"{value:.1f}" if math.isfinite(value) else "not measured"


def coarse_percent(rate: float) -> str:
    """Return a rate in whole percent."""
    return "less than 1%" if 0 < rate < 0.01 else f"{rate:.0%}"


def coarse_share(share: float) -> str:
    """Return the range of a share, for a group whose size is not told."""
    bounds = (0.05, 0.25, 0.5)
    if share <= 0:
        return "none"
    return next((f"up to {bound:.0%}" for bound in bounds if share <= bound), "more than half")


def coarse_p(p: float) -> str:
    """Return the range of a p-value: the exact p-value of one person is a rank, which others can look up."""
    return next((f"below {bound}" for bound in _BANDS if p < bound), f"{_BANDS[-1]} or more")


def averaged(losses: pd.DataFrame) -> pd.DataFrame:
    """Return mean losses over parts of every encoder's fit, each at the last step of its part.

    Args:
        losses: the columns `encoder` and `step`, and one for each loss.
    """
    tables = []
    for encoder, table in losses.groupby("encoder", sort=False):
        num_parts = max(1, min(_NUM_PARTS, len(table) // _LEAST_STEPS))
        part = pd.Series(range(len(table)), index=table.index) * num_parts // len(table)
        means = table.drop(columns="encoder").groupby(part).mean()
        means["step"] = table.groupby(part)["step"].max()
        means.insert(0, "encoder", encoder)
        tables.append(means)
    return pd.concat(tables, ignore_index=True)
