"""What other attacks than IDIA found in the runs of a sweep, in one table: `reproduce.py` writes it."""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_privacy.attacks.headlines import headlines, headlines_of
from backdoor_privacy.attacks.record import read_scores
from backdoor_privacy.attacks.scores import paired_p
from backdoor_privacy.config.attacks import attack_names

_MAX_LENGTH = 40  # characters
_COLUMNS = ("run", "setting", "measure", "kind", "model", "before", "value", "never_seen", "num_people", "outcomes")


def measured(runs: Path, folders: Mapping[str, str]) -> pd.DataFrame:
    """The headlines of runs, a row each: before, after, after of never-seen people, and each removed person's outcome.

    Args:
        runs: folder of all runs.
        folders: of the runs, each with its setting.
    """
    rows: list[dict[str, Any]] = []
    for folder, setting in folders.items():
        found = {path.stem: read_scores(path)[1] for path in (runs / folder / "attacks").glob("*.json")}
        for row in headlines(found):
            rows.append(
                {
                    "run": folder,
                    "setting": setting,
                    "measure": row.label,
                    "kind": row.score.kind,
                    "model": row.score.model,
                    "before": None if row.before is None else row.before.value,
                    "value": row.score.value,
                    "never_seen": None if row.control is None else row.control.value,
                    "num_people": row.score.num_people,
                    "outcomes": " ".join(f"{outcome:g}" for outcome in row.score.outcomes),
                }
            )
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def short(labels: Iterable[str]) -> dict[str, str]:
    """What each setting is called in a table: its label, or its number where labels are too long for columns."""
    labels = list(dict.fromkeys(labels))
    is_long = max(map(len, labels), default=0) > _MAX_LENGTH
    return {label: str(number) if is_long else label for number, label in enumerate(labels, 1)}


def findings_table(values: pd.DataFrame) -> str:
    """Means over seeds in Markdown, the least and the most in brackets: a row for each measure, a column a setting.

    What finds most of the removed people in the last setting comes first, what others pay comes last. What was found of
    the original and of never-seen people is a mean over all settings.

    Of two settings, the last column says how likely so uneven a difference is by chance, over the same people of all
    seeds, where each has an outcome.
    """
    settings = list(dict.fromkeys(values["setting"]))
    columns = [
        "measure",
        "not defended",
        *short(settings).values(),
        "never-seen people",
        *(["p"] if len(settings) == 2 else []),
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    num_runs = values.groupby("setting")["run"].nunique()
    for label in _worst_first(values):
        own = values[values["measure"] == label]
        cells = [_mean(own["before"])]
        cells += [_values(own[own["setting"] == setting], num_runs[setting]) for setting in settings]
        cells.append(_mean(own["never_seen"]))
        if len(settings) == 2:
            cells.append(_p(*(own[own["setting"] == setting] for setting in settings)))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _worst_first(values: pd.DataFrame) -> list[str]:
    """The measures by the last setting that has them; what no setting changes is left out."""
    changed = (values["value"] - values["before"]).abs().fillna(1).groupby(values["measure"]).max()
    values = values[values["measure"].map(changed) > 0]
    means = values.groupby(["measure", "setting"], sort=False)["value"].mean().groupby("measure").last()
    known = {one.label: one for own in headlines_of(attack_names()).values() for one in own if one.label in means.index}
    return sorted(known, key=lambda label: known[label].rank(means[label]))


def _values(rows: pd.DataFrame, num_runs: int) -> str:
    """Mean, least and most; and how many runs have it, where not all do."""
    cell = spread(rows["value"])
    return f"{cell}, {len(rows)} of {num_runs} runs" if 0 < len(rows) < num_runs else cell


def spread(values: pd.Series) -> str:
    """The mean, with the least and the most in brackets where there are several; nothing where there are none."""
    values = values.dropna()
    several = f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else ""
    return "" if values.empty else f"{values.mean():.3f}{several}"


def _p(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """Of the difference between two settings, person by person."""
    outcomes = [
        # The first folder is the experiment, the last one the seed: these say who was removed.
        {(run.split("/")[0], run.split("/")[-1]): text.split() for run, text in zip(rows["run"], texts, strict=True)}
        for rows in (one, other)
        for texts in [["" if pd.isna(text) else str(text) for text in rows["outcomes"]]]
    ]
    shared = [key for key in outcomes[0] if key in outcomes[1]]
    pairs = [list(map(float, chain.from_iterable(each[key] for key in shared))) for each in outcomes]
    if not pairs[0] or len(pairs[0]) != len(pairs[1]):
        return ""
    found = paired_p(*pairs)
    return "< 0.001" if found < 0.001 else f"{found:.3f}"


def _mean(values: pd.Series) -> str:
    known = values.dropna()
    return "" if known.empty else f"{known.mean():.3f}"
