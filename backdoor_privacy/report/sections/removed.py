"""Whether IDIA still infers the removed people."""

from collections.abc import Iterator

import pandas as pd
from scipy.stats import binomtest

from backdoor_privacy.report.cells import audited, model_labels, people_cell
from backdoor_privacy.report.figures.people import (
    idia_figure,
    map_figure,
    margins_figure,
    prompts_figure,
    votes_figure,
)
from backdoor_privacy.report.models import model_label
from backdoor_privacy.report.parts import NOT_MEASURED, Cell, Drawing, Part, Row, Section, Table, Text
from backdoor_privacy.runs.finished import FinishedRun

_GROUPS = {
    "tpr_removed": ("Removed people inferred", "fewer is better"),
    "tpr_kept": ("Kept people inferred", "retained people, in the training data or unknown; should stay as before"),
    "fpr": ("Never-seen people inferred", "known not to be in the training data; should stay as before"),
}


def removed(run: FinishedRun) -> Section:
    """Say whom IDIA infers, before and after."""
    text = (
        "IDIA (Identity Inference Attack) shows the model photos of a person and asks which of many names is theirs. A "
        "person is inferred when enough of its prompts are answered with the right name."
    )
    paired = paired_table(run)
    parts: list[Part] = [Text(text), idia_table(run), *([paired] if paired.rows else [])]
    drawings = [_idia(run), *(_of_people(run) if run.has_names else ())]
    return Section("removed", "Are the removed people still inferred?", parts, drawings)


def idia_table(run: FinishedRun) -> Table:
    """Return the removed, kept and never-seen people that IDIA infers."""
    models = audited(run)
    rows = [
        Row(label, note, [people_cell(measures, group) for measures in models.values()])
        for group, (label, note) in _GROUPS.items()
    ]
    if run.without_photos["removed"].any():
        count = f"{run.without_photos['removed'].sum():,} people"
        rows.append(Row("Removed, without photos", count, [Cell(NOT_MEASURED)] * len(models)))
    caption = (
        "People whose name IDIA infers from their photos; in small, the rate and its 95 % confidence interval (Wilson)"
    )
    return Table(caption, model_labels(models), rows)


def paired_table(run: FinishedRun) -> Table:
    """Return whether significantly more people changed in one direction than in the other: McNemar's exact test."""
    groups = {"Removed people": run.people["removed"], "Everybody else": ~run.people["removed"]}
    rows = []
    for label, chosen in groups.items():
        by_choice = bool(run.people.loc[chosen, "inferred_before"].all())  # then nobody could be newly inferred
        note = "; not tested: only people inferred before were chosen" if by_choice else ""
        cells = [_mcnemar(run, model, chosen, is_tested=not by_choice) for model in run.after]
        if chosen.any():
            rows.append(Row(label, f"no longer inferred, and newly inferred{note}", cells))
    caption = (
        "Each person compared with before; in small, McNemar's exact test: the probability of a change at least as "
        "uneven by chance"
    )
    return Table(caption, model_labels(run.after), rows)


def _mcnemar(run: FinishedRun, model: str, chosen: pd.Series, *, is_tested: bool) -> Cell:
    before, after = (run.people.loc[chosen, f"inferred_{each}"] for each in ("before", model))
    lost, new = int((before & ~after).sum()), int((after & ~before).sum())
    if not is_tested:
        return Cell(f"{lost:,} and {new:,}")
    chance = binomtest(lost, lost + new).pvalue if lost + new else 1.0
    return Cell(f"{lost:,} and {new:,}", "p < 0.001" if chance < 0.001 else f"p = {chance:.3f}")


def _idia(run: FinishedRun) -> Drawing:
    counts = {model: run.sought[f"inferred_{model}"] for model in audited(run)}
    numbers = "; ".join(f"{model_label(model)} {one.sum()} of {len(one)}" for model, one in counts.items())
    return Drawing(
        "idia",
        "People whom IDIA infers.",
        "Removed people should fall to none; the others should stay as before.",
        f"Bars. Removed people inferred: {numbers}. The table has all numbers.",
        lambda: idia_figure(run.before, run.after),
    )


def _of_people(run: FinishedRun) -> Iterator[Drawing]:
    """Yield the figures that show single people: whoever has the original could tell by them who somebody is."""
    if len(run.sought):
        yield _prompts(run)
    if len(run.sought) and len(run.votes):
        yield _margins(run)
        yield _votes(run)
    if len(run.map):
        yield Drawing(
            "map",
            "Map of the embeddings.",
            "Each dot is a person (a name alone, or the mean of the photos), in the two directions in which these dots "
            "differ most; grey lines join before and after.",
            "Dots in two dimensions. map.csv has all numbers.",
            lambda: map_figure(run.map, run.people.loc[run.people["removed"], "person"].tolist()),
            is_private=True,
        )


def _prompts(run: FinishedRun) -> Drawing:
    medians = run.sought[[f"correct_prompts_{model}" for model in audited(run)]].median()
    numbers = "; ".join(f"{model_label(model)} {value:g}" for model, value in zip(audited(run), medians, strict=True))
    return Drawing(
        "prompts",
        "Correct prompts of removed people.",
        "Each bar counts the people with that many right answers.",
        f"Bars. Median number of correct prompts of removed people: {numbers}.",
        lambda: prompts_figure(run.correct_prompts, run.num_prompts, run.threshold),
        is_private=True,
    )


def _margins(run: FinishedRun) -> Drawing:
    medians = run.of_removed(run.votes).groupby("model", sort=False)["margin"].median()
    numbers = "; ".join(f"{model_label(str(model))} {margin:+.3f}" for model, margin in medians.items())
    return Drawing(
        "margins",
        "Margin of the own name.",
        "A dot for each person: how much better their photos fit their own name than the best other name, mean over "
        "photos and prompts. Left of the dashed line another name fits better. Black: the median.",
        f"Dots. Median margin of removed people: {numbers}. votes.csv has all numbers.",
        lambda: margins_figure(_margins_by_group(run)),
        is_private=True,
    )


def _margins_by_group(run: FinishedRun) -> dict[str, dict[str, list[float]]]:
    """Return the margins of removed people and of all others, for `before` and each audited model."""
    votes, removed = run.votes.dropna(subset="margin"), set(run.of_removed(run.votes)["person"])
    groups = {"Removed people": votes["person"].isin(removed), "Everybody else": ~votes["person"].isin(removed)}
    return {
        group: {str(model): rows["margin"].tolist() for model, rows in votes[chosen].groupby("model", sort=False)}
        for group, chosen in groups.items()
        if chosen.any()
    }


def _votes(run: FinishedRun) -> Drawing:
    votes = run.of_removed(run.votes).groupby("model", sort=False)[run.prompts].sum()
    return Drawing(
        "votes",
        "Votes under each prompt.",
        "Share of the removed people's photos that vote for the own name.",
        "A table of shares in shades of blue. votes.csv has all numbers.",
        lambda: votes_figure(votes.T / run.sought["num_photos"].sum()),
        is_private=True,
    )
