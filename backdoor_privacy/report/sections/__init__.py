"""The sections of the page, in their order. A section that does not apply to a run returns nothing."""

from collections.abc import Callable, Sequence

from backdoor_privacy.report.parts import Section
from backdoor_privacy.report.sections.attacks import attacks
from backdoor_privacy.report.sections.conditions import conditions
from backdoor_privacy.report.sections.kept import kept
from backdoor_privacy.report.sections.limits import limits
from backdoor_privacy.report.sections.names import names
from backdoor_privacy.report.sections.people import people
from backdoor_privacy.report.sections.record import record, request
from backdoor_privacy.report.sections.removed import removed
from backdoor_privacy.report.sections.training import training
from backdoor_privacy.report.sections.utility import utility
from backdoor_privacy.runs.finished import FinishedRun

SECTIONS: Sequence[Callable[[FinishedRun], Section | None]] = (
    conditions,
    removed,
    names,
    attacks,
    kept,
    utility,
    people,
    limits,
    request,
    training,
    record,
)


def sections_of(run: FinishedRun) -> list[Section]:
    """Return the sections that apply to a run."""
    return [section for make in SECTIONS if (section := make(run)) is not None]
