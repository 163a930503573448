"""Whether removed names without photos stand out among random names."""

from collections.abc import Mapping

from backdoor_privacy.attacks.names_alone import FORMS
from backdoor_privacy.report.cells import audited, model_labels
from backdoor_privacy.report.parts import Cell, Row, Section, Table
from backdoor_privacy.runs.finished import FinishedRun

_MEASURES = {
    "moved_further": ("Random names that the defence moved further", "a share; 0.5 is chance"),
    "nearer_target": ("Random names that are nearer to the target", "a share; 0.5 is chance"),
    "moved": ("How far the name moved", "1 - cosine to the original; in small, of random names"),
    "target": ("Cosine to the target", "in small, of random names"),
}
_TOLD_BY = {"moved_further": "by whoever has the original", "nearer_target": "by whoever knows the target"}


def names(run: FinishedRun) -> Section | None:
    """Say how removed names without photos stand out; nothing if everybody who was removed has photos."""
    table = names_table(run)
    return Section("names", "Do removed names without photos stand out?", [table]) if table.rows else None


def names_table(run: FinishedRun) -> Table:
    """Return how removed names without photos stand out among random names, in inputs that no defence trained on."""
    shown = audited(run) if run.has_names else run.after
    models = {model: measures for model, measures in shown.items() if "names/num_names" in measures}
    rows = [
        Row(f"{label}, in {form}", note, [_cell(measures, f"{form}_{key}") for measures in models.values()])
        for key, (label, note) in _MEASURES.items()
        for form in FORMS
        if models and run.has_names
    ]
    for key, label in _TOLD_BY.items():
        cells = [Cell(f"{measures[f'names/told_by_{key}']:.0%}") for measures in models.values()]
        note = "those that stand out more than 97.5 % of random names do, in prompts or in spellings"
        rows += [Row(f"Removed names recognised, {label}", note, cells)] if models else []
    caption = (
        "Names without photos, in prompts and spellings that were not trained on, means over names; a name that can be "
        "recognised as removed is itself a leak (forget-set inference)"
    )
    return Table(caption, model_labels(models), rows)


def _cell(measures: Mapping[str, float], key: str) -> Cell:
    random = measures.get(f"names/{key}_random")
    return Cell(f"{measures[f'names/{key}']:.3f}", "" if random is None else f"{random:.3f}")
