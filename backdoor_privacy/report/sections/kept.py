"""What became of everybody who was not removed."""

from collections.abc import Mapping

import pandas as pd

from backdoor_privacy.report.cells import model_labels, people_cell, share_cell
from backdoor_privacy.report.models import people_of
from backdoor_privacy.report.parts import Cell, Row, Section, Table
from backdoor_privacy.runs.finished import FinishedRun

_RATES = {
    "wrongly_unlearned": ("Others lost", "inferred before, not after; of all that were inferred before"),
    "newly_recalled": ("Others newly inferred", "not before, but after; of all that were not inferred before"),
}
_NEIGHBORS = {
    "first name": "of people with the first name of a removed person who were inferred before",
    "surname": "of people with the surname of a removed person who were inferred before",
    "face": "of people with the faces nearest to a removed person's who were inferred before",
}


def kept(run: FinishedRun) -> Section:
    """Say who else is no longer inferred, or newly inferred."""
    return Section("kept", "What happened to everybody else?", [kept_table(run)])


def kept_table(run: FinishedRun) -> Table:
    """Return how many others changed, and how many of the removed people's neighbours are lost."""
    rows = [
        Row(label, note, [people_cell(measures, rate) for measures in run.after.values()])
        for rate, (label, note) in _RATES.items()
    ]
    unchanged = [_unchanged(measures) for measures in run.after.values()]
    rows.append(Row("Others unchanged", "the same before and after; of all others", unchanged))
    for kind, note in _NEIGHBORS.items() if run.has_names else ():  # their number tells whose neighbours they are
        near = run.people["person"].isin(run.neighbors.loc[run.neighbors["kind"] == kind, "person"])
        if near.any():
            rows.append(Row(f"Others lost: {kind}", note, [_unlearned(run, model, near) for model in run.after]))
    caption = "People who were not removed, each compared with before; those lost are collateral damage"
    return Table(caption, model_labels(run.after), rows)


def _unchanged(measures: Mapping[str, float]) -> Cell:
    changed = [people_of(measures, group) or (0, 0) for group in _RATES]
    everybody = sum(count for _, count in changed)
    same = everybody - sum(num_changed for num_changed, _ in changed)
    return share_cell(same, everybody) if everybody else Cell("nobody")


def _unlearned(run: FinishedRun, model: str, chosen: pd.Series) -> Cell:
    """Return how many of the chosen people were inferred before and no longer are."""
    inferred = run.people.loc[chosen & run.people["inferred_before"], f"inferred_{model}"]
    return share_cell(int((~inferred).sum()), len(inferred)) if len(inferred) else Cell("nobody")
