"""What attacks other than IDIA find."""

from backdoor_privacy.attacks.headlines import beside, headlines, headlines_of
from backdoor_privacy.report.cells import coarse_cell, exact_cell
from backdoor_privacy.report.models import model_label
from backdoor_privacy.report.parts import Folded, Part, Row, Section, Table, Text
from backdoor_privacy.runs.finished import FinishedRun

_COLUMNS = ("before", "after", "after, never-seen people")
_INTERVALS = "in small, the 95 % confidence interval (Wilson for rates of people, otherwise bootstrap over people)"


def attacks(run: FinishedRun) -> Section | None:
    """Say what other attacks find; nothing if none was run."""
    table, findings = attacks_table(run), findings_table(run)
    if not table.rows:
        return None
    text = (
        "For rates, lower is better; for an AUC, 0.5 is chance. The column of never-seen people shows what an attack "
        "finds about people whom the model never knew."
    )
    parts: list[Part] = [Text(text), table]
    if findings.rows:
        parts.append(Folded("Every finding", findings))
    return Section("attacks", "Do other attacks find the removed people?", parts)


def attacks_table(run: FinishedRun) -> Table:
    """Return what sums up the other attacks, the worst first."""
    rows = []
    for row in headlines(run.attacks):
        finding = row.score
        note = f"{row.attack.replace('_', ' ')}: {finding.kind}, {model_label(finding.model)}"
        exact = [exact_cell(row.before), exact_cell(finding)] if run.has_names else [coarse_cell(finding)]
        rows.append(Row(row.label, note, [*exact, exact_cell(row.control)]))
    start = "Other attacks, worst first; the last rows say what other people lose (collateral damage)"
    if run.has_names:
        return Table(f"{start}; {_INTERVALS}", _COLUMNS, rows)
    return Table(f"{start}; numbers that are not counts have one decimal", _COLUMNS[1:], rows)


def findings_table(run: FinishedRun) -> Table:
    """Return all that other attacks found about the removed people and about those who are harmed, attack by attack.

    These are many numbers that depend on who was removed, so only a report with names holds them.
    """
    rows = []
    of_others = {name for name, own in headlines_of(run.attacks).items() if any(one.of_others for one in own)}
    for name, findings in run.attacks.items() if run.has_names else ():
        for finding in findings:
            if finding.model != "before" and (finding.group.startswith("removed") or name in of_others):
                before, control = beside(finding, findings)
                held_out = ", never trained on" if finding.held_out else ""
                note = f"{finding.measure} of {finding.group}, {model_label(finding.model)}{held_out}"
                label = f"{name.replace('_', ' ')}: {finding.kind}"
                rows.append(Row(label, note, [exact_cell(before), exact_cell(finding), exact_cell(control)]))
    caption = f"Every finding about removed people, and about people whom their removal harms; {_INTERVALS}"
    return Table(caption, _COLUMNS, rows)
