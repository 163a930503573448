"""The conditions that the verdict rests on."""

from backdoor_privacy.report.checks import checks
from backdoor_privacy.report.models import defended
from backdoor_privacy.report.parts import Cell, Note, Row, Section, Table
from backdoor_privacy.report.verdict import State
from backdoor_privacy.runs.finished import FinishedRun

_STATES = {State.FAILED: "FAILED", State.NOT_SHOWN: "not shown", State.PASSED: "passed"}


def conditions(run: FinishedRun) -> Section:
    """Say which conditions of the verdict passed, failed or are not shown."""
    note = (
        "Green: all conditions passed. Red: at least one failed. Amber: none failed, but some are not shown (not "
        f"measured, or too few data to tell). All are about the model with {defended(run.fullest)} defended; "
        "docs/report.md has the rules."
    )
    return Section("checks", "Which conditions passed?", [checks_table(run), Note(note)])


def checks_table(run: FinishedRun) -> Table:
    """Return each condition with what was measured and what is allowed; the failed ones come first."""
    measured = checks(run)
    rows = [
        Row(check.label, check.note, [Cell(check.measured), Cell(check.allowed), Cell(result)])
        for state, result in _STATES.items()
        for check in measured
        if check.state is state
    ]
    caption = "Each condition of a green verdict, failed ones first"
    return Table(caption, ("Measured", "Allowed", "Result"), rows, first="Condition")
