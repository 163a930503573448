"""A page that sets finished runs side by side."""

from collections.abc import Mapping

from backdoor_privacy.report import wording
from backdoor_privacy.report.cells import coarse_cell, number_cells, people_cell
from backdoor_privacy.report.html import templates
from backdoor_privacy.report.models import model_label
from backdoor_privacy.report.parts import Cell, Row, Table
from backdoor_privacy.report.verdict import TOP1
from backdoor_privacy.runs.finished import FinishedRun

_COLUMNS = (
    "verdict",
    "removed people inferred, before",
    "removed people inferred, after",
    "found by other attacks",
    "kept people inferred",
    "others lost",
    "never-seen people inferred",
    "zero-shot top-1",
    "minutes",
)


def compare(runs: Mapping[str, FinishedRun]) -> str:
    """Return a page with a row for each run.

    Args:
        runs: by their folders, as seen from the page.
    """
    rows = [_row(address, run) for address, run in runs.items()]
    caption = "In small: the rate and its 95 % confidence interval, or the change from before"
    table = Table(caption, _COLUMNS, rows, first="Run")
    return templates().get_template("comparison.html.j2").render(table=table, addresses=list(runs))


def _row(address: str, run: FinishedRun) -> Row:
    """Return the row of a run, about the model with most encoders defended."""
    after = run.after[run.fullest]
    worst = wording.found_otherwise(run)
    cells = [
        Cell(wording.status(run)),
        people_cell(run.before, "tpr_removed"),
        people_cell(after, "tpr_removed"),
        Cell("not run" if not run.attacks else "none") if worst is None else coarse_cell(worst.score),
        Cell(people_cell(after, "tpr_kept").main, f"before: {people_cell(run.before, 'tpr_kept').main}"),
        people_cell(after, "wrongly_unlearned"),
        people_cell(after, "fpr"),
        number_cells(run, TOP1)[1 + list(run.after).index(run.fullest)],
        Cell(f"{sum(run.metrics['seconds'].values()) / 60:.1f}"),
    ]
    label = f"{run.metrics['experiment']}, seed {run.metrics['seed']}"
    return Row(label, f"{model_label(run.fullest)}; {address}", cells)
