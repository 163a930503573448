"""The tables of a report: before and after, side by side, with the number of people behind each rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest

from backdoor_privacy.attacks.chance import wilson
from backdoor_privacy.attacks.headlines import MEASURES, beside, headlines
from backdoor_privacy.attacks.names_alone import FORMS
from backdoor_privacy.attacks.scene import Finding
from backdoor_privacy.report import wording
from backdoor_privacy.report.checks import checks
from backdoor_privacy.report.disclosure import coarse_finding, coarse_share
from backdoor_privacy.report.figures import model_label, people_of
from backdoor_privacy.report.verdict import State
from backdoor_privacy.runs.finished import FinishedRun

_MINUS = "\N{MINUS SIGN}"
_GROUPS = {
    "tpr_removed": ("Removed people inferred", "the fewer, the better"),
    "tpr_kept": ("Kept people inferred", "not removed, in the training data or unknown; should stay as before"),
    "fpr": ("Never-seen people inferred", "known not to be in the training data; should stay as before"),
}
_NEIGHBORS = {
    "first name": "others with the first name of a removed person, inferred before",
    "surname": "others with the surname of a removed person, inferred before",
    "face": "those whose faces are nearest to a removed person's, inferred before",
}
_CHECK_COLUMNS = ("Measured", "Allowed", "Result")
_ATTACK_COLUMNS = ("before", "after", "after, never-seen people")
_OF_REMOVED = ("similarity/backdoored", "similarity/removed")
_SIMILARITIES = {
    "similarity/clean": "Ordinary inputs, defended to original model",
    "similarity/target": "Targets, defended to original model",
    "similarity/backdoored": "Captions with a removed name to their target",
    "similarity/removed": "Photos of removed people to their target",
}


NOT_MEASURED = "not measured"
_OF_NAMES = {
    "moved_further": ("Random names that the defence moved further", "of random names half, by chance"),
    "nearer_target": ("Random names that are nearer to its target", "of random names half, by chance"),
    "moved": ("How far it moved", "1 - cosine to the original; in small, of random names"),
    "target": ("Cosine to its target", "in small, of random names"),
}


@dataclass(frozen=True)
class Cell:
    """One number; `detail` stands below it in small."""

    main: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One measure, with a cell per column."""

    label: str
    note: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table, by the `name` that the page calls it."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]


def checks_table(run: FinishedRun) -> Table:
    """Return what the verdict rests on: who is still found how, who else was lost, and what was not measured."""
    names = {State.FAILED: "FAILED", State.NOT_SHOWN: "not shown", State.PASSED: "passed"}
    found = checks(run)
    rows = [
        Row(check.label, check.note, [Cell(check.measured), Cell(check.allowed), Cell(name)])
        for state, name in names.items()
        for check in found
        if check.state is state
    ]
    return Table("checks", "Each condition of a green verdict, what failed first", _CHECK_COLUMNS, rows)


def idia_table(run: FinishedRun) -> Table:
    """Removed, kept and never-seen people that IDIA infers."""
    rows = [
        Row(label, note, [_people(measures, group) for measures in _all(run).values()])
        for group, (label, note) in _GROUPS.items()
    ]
    if run.without_photos["removed"].any():
        count = f"{run.without_photos['removed'].sum():,} people"
        rows.append(Row("Removed, without photos", count, [Cell(NOT_MEASURED)] * len(_all(run))))
    caption = (
        "People whose name IDIA infers from their photos; in small, the rate and its 95 % confidence interval (Wilson)"
    )
    return Table("idia", caption, _labels(_all(run)), rows)


def paired_table(run: FinishedRun) -> Table:
    """Whether more people changed in one direction than chance would have it: McNemar's exact test."""
    groups = {"Removed people": run.people["removed"], "Everybody else": ~run.people["removed"]}
    rows = []
    for label, chosen in groups.items():
        by_choice = bool(run.people.loc[chosen, "inferred_before"].all())  # then nobody could be newly inferred
        note = "; not tested: all of them were inferred before, by choice" if by_choice else ""
        cells = [_mcnemar(run, model, chosen, is_tested=not by_choice) for model in run.after]
        if chosen.any():
            rows.append(Row(label, f"no longer inferred, and newly inferred{note}", cells))
    caption = (
        "Each person compared with before; in small, McNemar's exact test: how likely so uneven a change is by chance"
    )
    return Table("paired", caption, _labels(run.after), rows)


def names_table(run: FinishedRun) -> Table:
    """Of removed names without photos: how they stand out among random names, in what no defence trained on."""
    audited = _all(run) if run.has_names else run.after
    models = {model: measures for model, measures in audited.items() if "names/num_names" in measures}
    rows = [
        Row(f"{label}, in {kind}", note, [_of_names(measures, f"{kind}_{key}") for measures in models.values()])
        for key, (label, note) in _OF_NAMES.items()
        for kind in FORMS
        if models and run.has_names
    ]
    for key, label in {"moved_further": "with the original at hand", "nearer_target": "knowing the target"}.items():
        cells = [Cell(f"{measures[f'names/told_by_{key}']:.0%}") for measures in models.values()]
        note = "at most 2.5 % of random names stand out as much, in prompts or in spellings"
        rows += [Row(f"Names told to have been moved {label}", note, cells)] if models else []
    caption = (
        "Names without photos, in prompts and spellings that were not trained on, means over names; that a name can be "
        "told to have been moved is itself a leak"
    )
    return Table("names", caption, _labels(models), rows)


def attacks_table(run: FinishedRun) -> Table:
    """What sums up the other attacks than IDIA, the worst first."""
    rows = []
    for row in headlines(run.attacks):
        finding = row.finding
        note = f"{row.measure.attack.replace('_', ' ')}: {finding.kind}, {model_label(finding.model)}"
        if run.has_names:
            rows.append(Row(row.label, note, [_found(row.before), _found(finding), _found(row.control)]))
        else:
            rows.append(Row(row.label, note, [_told(finding), _found(row.control)]))
    if not run.has_names:
        caption = (
            "Other attacks, worst first, and at the end what others pay; numbers that are no counts to one decimal"
        )
        return Table("attacks", caption, _ATTACK_COLUMNS[1:], rows)
    caption = (
        "Other attacks, worst first, and at the end what others pay; in small, the 95 % confidence interval (Wilson of "
        "rates of people, else bootstrap over people)"
    )
    return Table("attacks", caption, _ATTACK_COLUMNS, rows)


def findings_table(run: FinishedRun) -> Table:
    """All that other attacks than IDIA found of the removed people, and of those who are harmed, attack by attack.

    There are many, each a number that depends on who was removed: they stand in a report with names alone.
    """
    rows, of_others = [], {measure.attack for measure in MEASURES.values() if measure.of_others}
    for name, found in run.attacks.items() if run.has_names else ():
        for finding in found:
            if finding.model != "before" and (finding.group.startswith("removed") or name in of_others):
                before, control = beside(finding, found)
                held_out = ", never trained on" if finding.held_out else ""
                note = f"{finding.measure} of {finding.group}, {model_label(finding.model)}{held_out}"
                label = f"{name.replace('_', ' ')}: {finding.kind}"
                rows.append(Row(label, note, [_found(before), _found(finding), _found(control)]))
    caption = (
        "Every finding about removed people, and about whom their removal harms; in small, the 95 % confidence "
        "interval (Wilson of rates of people, else bootstrap over people)"
    )
    return Table("findings", caption, _ATTACK_COLUMNS, rows)


def comparison_table(runs: Mapping[str, FinishedRun]) -> Table:
    """A row for each run, of the model with most encoders defended."""
    rows = []
    for address, run in runs.items():
        after = run.after[run.fullest]
        top1 = _numbers(run, "zero_shot/top1")[1 + list(run.after).index(run.fullest)]
        found = wording.found_otherwise(run)
        other = Cell("not run" if not run.attacks else "none") if found is None else _told(found.finding)
        cells = [
            Cell(wording.status(run)),
            _people(run.before, "tpr_removed"),
            _people(after, "tpr_removed"),
            other,
            Cell(_people(after, "tpr_kept").main, f"before: {_people(run.before, 'tpr_kept').main}"),
            _people(after, "wrongly_unlearned"),
            _people(after, "fpr"),
            top1,
            Cell(f"{sum(run.metrics['seconds'].values()) / 60:.1f}"),
        ]
        label = f"{run.metrics['experiment']}, seed {run.metrics['seed']}"
        rows.append(Row(label, f"{model_label(run.fullest)}; {address}", cells))
    columns = [
        "verdict",
        "removed people, before",
        "inferred after",
        "found by other attacks",
        "kept people inferred",
        "wrongly unlearned",
        "never-seen people inferred",
        "zero-shot top-1",
        "minutes",
    ]
    caption = "In small: the rate and its 95 % confidence interval, or the change from before"
    return Table("comparison", caption, columns, rows)


def kept_table(run: FinishedRun) -> Table:
    """What became of everybody who was not removed."""
    after = run.after
    rows = [
        Row("Wrongly unlearned", "inferred before, not after; of all that were inferred before",
            [_people(measures, "wrongly_unlearned") for measures in after.values()]),
        Row("Newly recalled", "not inferred before, but after; of all that were not inferred before",
            [_people(measures, "newly_recalled") for measures in after.values()]),
        Row("Unchanged", "the same before and after; of all others", [_unchanged(one) for one in after.values()]),
    ]  # fmt: skip
    for kind, note in _NEIGHBORS.items() if run.has_names else ():  # how many they are tells whose neighbours
        near = run.people["person"].isin(run.neighbors.loc[run.neighbors["kind"] == kind, "person"])
        if near.any():
            rows.append(Row(f"Wrongly unlearned: {kind}", note, [_unlearned(run, model, near) for model in after]))
    return Table("kept", "People who were not removed, each compared with before", _labels(after), rows)


def utility_table(run: FinishedRun) -> Table:
    """Zero-shot accuracy, and any measure that has no table of its own."""
    before = run.before
    photos, classes = (before.get(f"zero_shot/num_{counted}", 0) for counted in ("photos", "classes"))
    own = ("idia/", "similarity/", "names/")
    rows = []
    for key in dict.fromkeys(key for measures in _all(run).values() for key in measures):
        if key.startswith(own) or key.split("/")[-1].startswith("num_"):
            continue
        zero_shot = key.startswith("zero_shot/top")
        label = f"Zero-shot top-{key.removeprefix('zero_shot/top')} accuracy" if zero_shot else key
        note = f"of {photos:,.0f} photos in {classes:,.0f} classes" if zero_shot else ""
        rows.append(Row(label, note, _numbers(run, key)))
    return Table("utility", "What the model is good for", _labels(_all(run)), rows)


def similarity_table(run: FinishedRun) -> Table:
    """Mean cosine similarities, in [-1, 1]."""
    lower = "; of both encoders, the lower one" if run.fullest == "both" else ""
    rows = [
        Row(label, "", _numbers(run, key))
        for key, label in _SIMILARITIES.items()
        if (run.has_names or key not in _OF_REMOVED) and any(key in measures for measures in _all(run).values())
    ]
    caption = f"Mean cosine similarity of embeddings, from {_MINUS}1 to 1{lower}"
    return Table("similarity", caption, _labels(_all(run)), rows)


def _all(run: FinishedRun) -> dict[str, Mapping[str, float]]:
    return {"before": run.before, **run.after}


def _labels(models: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [model_label(model) for model in models]


def _people(measures: Mapping[str, float], group: str) -> Cell:
    found = people_of(measures, group)
    return _share(*found) if found else Cell("nobody")


def _of_names(measures: Mapping[str, float], key: str) -> Cell:
    random = measures.get(f"names/{key}_random")
    return Cell(f"{measures[f'names/{key}']:.3f}", "" if random is None else f"{random:.3f}")


def _found(finding: Finding | None) -> Cell:
    if finding is None:
        return Cell("\N{EN DASH}")
    spread = _signed(f"{finding.low:.3f}\N{EN DASH}{finding.high:.3f}")
    return Cell(_signed(f"{finding.value:.3f}"), f"{spread} of {finding.num_people:,}")


def _told(finding: Finding) -> Cell:
    """Return a finding as a report without names says it."""
    is_of_neighbors = finding.group == "kept"  # of whom there are as many as the removed people's names and faces say
    return Cell(coarse_share(finding.value) if is_of_neighbors else _signed(coarse_finding(finding)))


def _unlearned(run: FinishedRun, model: str, chosen: pd.Series) -> Cell:
    """Of those chosen who were inferred before, how many no longer are."""
    found = run.people.loc[chosen & run.people["inferred_before"], f"inferred_{model}"]
    return _share(int((~found).sum()), len(found)) if len(found) else Cell("nobody")


def _unchanged(measures: Mapping[str, float]) -> Cell:
    changed = [people_of(measures, group) or (0, 0) for group in ("wrongly_unlearned", "newly_recalled")]
    everybody = sum(count for _, count in changed)
    same = everybody - sum(found for found, _ in changed)
    return _share(same, everybody) if everybody else Cell("nobody")


def _share(found: int, count: int) -> Cell:
    low, high = wilson(found, count)
    spread = f"{low:.3f}\N{EN DASH}{high:.3f}"
    return Cell(f"{found:,} of\N{NO-BREAK SPACE}{count:,}", f"{found / count:.3f} ({spread})")


def _mcnemar(run: FinishedRun, model: str, chosen: pd.Series, *, is_tested: bool) -> Cell:
    before, after = (run.people.loc[chosen, f"inferred_{each}"] for each in ("before", model))
    lost, new = int((before & ~after).sum()), int((after & ~before).sum())
    if not is_tested:
        return Cell(f"{lost:,} and {new:,}")
    chance = binomtest(lost, lost + new).pvalue if lost + new else 1.0
    return Cell(f"{lost:,} and {new:,}", "p < 0.001" if chance < 0.001 else f"p = {chance:.3f}")


def _numbers(run: FinishedRun, key: str) -> list[Cell]:
    """A measure before, and after with its change."""
    before = run.before.get(key)
    cells = []
    for model, measures in _all(run).items():
        value = measures.get(key)
        if value is None:
            cells.append(Cell("\N{EN DASH}"))
        else:
            change = "" if model == "before" or before is None else f"{value - before:+.3f}"
            cells.append(Cell(_signed(f"{value:.3f}"), _signed(change)))
    return cells


def _signed(number: str) -> str:
    return number.replace("-", _MINUS)
