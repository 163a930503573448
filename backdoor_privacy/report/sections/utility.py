"""Whether the model is as useful as before."""

from backdoor_privacy.report.cells import MINUS, audited, model_labels, number_cells
from backdoor_privacy.report.labels import labels_in
from backdoor_privacy.report.method import encoders_of
from backdoor_privacy.report.parts import Note, Part, Row, Section, Table, Text
from backdoor_privacy.runs.finished import FinishedRun
from backdoor_privacy.utility.base import Label

_ELSEWHERE = ("idia/", "similarity/", "names/")  # measures with tables of their own
_OF_REMOVED = ("similarity/backdoored", "similarity/removed")
_SIMILARITIES = {
    "similarity/clean": "Ordinary inputs, defended against original model",
    "similarity/target": "Targets, defended against original model",
    "similarity/backdoored": "Captions with a removed name to their target",
    "similarity/removed": "Photos of removed people to their target",
}


def utility(run: FinishedRun) -> Section:
    """Say what the model is good for, before and after."""
    tables: list[Part] = [table for table in (utility_table(run), similarity_table(run)) if table.rows]
    nothing = Text("Not measured: the run had no data to measure it with.")
    note = "Small numbers: the change from before. A dash: not measured, because that encoder is the original."
    return Section("utility", "Is the model as useful as before?", [*(tables or [nothing]), Note(note)])


def utility_table(run: FinishedRun) -> Table:
    """Return every number that has no table of its own, under the label that its measure gave it."""
    own_labels = labels_in(run.metrics)
    keys = dict.fromkeys(key for measures in audited(run).values() for key in measures)
    rows = []
    for key in keys:
        if not key.startswith(_ELSEWHERE) and not key.split("/")[-1].startswith("num_"):
            label = own_labels.get(key, Label(key))
            rows.append(Row(label.title, label.note, number_cells(run, key)))
    return Table("Utility of the model", model_labels(audited(run)), rows)


def similarity_table(run: FinishedRun) -> Table:
    """Return the mean cosine similarities, in [-1, 1]."""
    lower = "; of both encoders, the lower one" if len(encoders_of(run)) > 1 else ""
    rows = [
        Row(label, "", number_cells(run, key))
        for key, label in _SIMILARITIES.items()
        if (run.has_names or key not in _OF_REMOVED) and any(key in measures for measures in audited(run).values())
    ]
    return Table(f"Mean cosine similarity of embeddings, from {MINUS}1 to 1{lower}", model_labels(audited(run)), rows)
