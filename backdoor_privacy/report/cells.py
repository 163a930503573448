"""Cells of tables: numbers as reports write them, each with what is behind it."""

from collections.abc import Mapping

from backdoor_privacy.attacks.chance import wilson
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.report.disclosure import coarse_score, coarse_share
from backdoor_privacy.report.models import model_label, people_of
from backdoor_privacy.report.parts import Cell
from backdoor_privacy.runs.finished import FinishedRun

MINUS = "\N{MINUS SIGN}"
_NONE = Cell("\N{EN DASH}")


def audited(run: FinishedRun) -> dict[str, Mapping[str, float]]:
    """Return the measures of the original and of each audited model."""
    return {"before": run.before, **run.after}


def model_labels(models: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return what these models are called above their columns."""
    return [model_label(model) for model in models]


def people_cell(measures: Mapping[str, float], group: str) -> Cell:
    """Return how many people of a group IDIA infers, with the rate and its interval."""
    counts = people_of(measures, group)
    return share_cell(*counts) if counts else Cell("nobody")


def share_cell(count: int, num_people: int) -> Cell:
    """Return a number of people, with the rate and its interval."""
    low, high = wilson(count, num_people)
    spread = f"{low:.3f}\N{EN DASH}{high:.3f}"
    return Cell(f"{count:,} of\N{NO-BREAK SPACE}{num_people:,}", f"{count / num_people:.3f} ({spread})")


def exact_cell(score: Score | None) -> Cell:
    """Return what an attack found, with its interval."""
    if score is None:
        return _NONE
    spread = signed(f"{score.low:.3f}\N{EN DASH}{score.high:.3f}")
    return Cell(signed(f"{score.value:.3f}"), f"{spread} of {score.num_people:,}")


def coarse_cell(score: Score) -> Cell:
    """Return what an attack found as a report without names says it."""
    is_of_neighbors = score.group == "kept"  # their number follows from the removed people's names and faces
    return Cell(coarse_share(score.value) if is_of_neighbors else signed(coarse_score(score)))


def number_cells(run: FinishedRun, key: str) -> list[Cell]:
    """Return a measure before, and after with its change."""
    before = run.before.get(key)
    cells = []
    for model, measures in audited(run).items():
        value = measures.get(key)
        if value is None:
            cells.append(_NONE)
        else:
            change = "" if model == "before" or before is None else f"{value - before:+.3f}"
            cells.append(Cell(signed(f"{value:.3f}"), signed(change)))
    return cells


def signed(number: str) -> str:
    """Return a number with a true minus sign."""
    return number.replace("-", MINUS)
