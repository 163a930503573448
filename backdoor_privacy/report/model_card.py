"""The model card of a defended CLIP: Markdown with the metadata that the Hugging Face hub reads."""

from collections.abc import Sequence
from dataclasses import replace

from backdoor_privacy.report import earlier, wording
from backdoor_privacy.report.html import templates
from backdoor_privacy.report.method import asked, model_of, repository
from backdoor_privacy.report.models import defended
from backdoor_privacy.report.parts import Cell, Facts, Points, Row, Section, Table, Terms, Text
from backdoor_privacy.report.sections.attacks import attacks_table
from backdoor_privacy.report.sections.kept import kept_table
from backdoor_privacy.report.sections.limits import limits_of
from backdoor_privacy.report.sections.names import names_table
from backdoor_privacy.report.sections.removed import idia_table
from backdoor_privacy.report.sections.utility import utility_table
from backdoor_privacy.runs.finished import FinishedRun

_SOFTWARE = ("backdoor_privacy", "commit", "torch", "open_clip_torch")


def model_card(run: FinishedRun) -> str:
    """Return the card of the model that a run saved; it holds nobody's name."""
    nobody = replace(run, has_names=False)
    sections = [_method(nobody), _evaluation(nobody), *_names(nobody), *_attacks(nobody), _limits(nobody)]
    return (
        templates()
        .get_template("model_card.md.j2")
        .render(
            model=model_of(run),
            is_text_model=run.setting("clip.text_model") is not None,
            repository=repository(run),
            request=wording.request(run),
            verdict=wording.verdict(run),
            otherwise=wording.otherwise(run),
            sections=[*sections, _weights(nobody)],
        )
    )


def _method(run: FinishedRun) -> Section:
    changed = defended(run.fullest)
    text = f"A copy of {changed} was changed on purpose, as follows."
    return Section("method", "Method", [Text(text if run.defenses else earlier.method(changed)), Terms(asked(run))])


def _evaluation(run: FinishedRun) -> Section:
    tables = [idia_table(run), kept_table(run), utility_table(run)]
    columns = tables[0].columns
    caption = "After each count of people: the rate and its 95 % confidence interval (Wilson)"
    rows = [row for table in tables for row in _as_wide(table.rows, len(columns))]
    return Section("evaluation", "Evaluation", [Table(caption, columns, rows)])


def _as_wide(rows: Sequence[Row], width: int) -> list[Row]:
    """Return rows with as many cells as columns: changes have none before."""
    return [replace(row, cells=[Cell("")] * (width - len(row.cells)) + list(row.cells)) for row in rows]


def _names(run: FinishedRun) -> list[Section]:
    table = names_table(run)
    rows = [replace(row, label=f"{row.label} ({row.note})") for row in table.rows]
    return [Section("names", "Names without photos", [replace(table, rows=rows)])] if rows else []


def _attacks(run: FinishedRun) -> list[Section]:
    table = attacks_table(run)
    return [Section("attacks", "Other attacks", [table])] if table.rows else []


def _limits(run: FinishedRun) -> Section:
    return Section("limits", "Limits", [Points(limits_of(run))])


def _weights(run: FinishedRun) -> Section:
    versions = run.metrics["versions"]
    software = ", ".join(f"{package} {version}" for package, version in versions.items() if package in _SOFTWARE)
    columns = "", "SHA-256 over names, shapes and values of all weights"
    weights = Facts("Weights", columns, run.metrics["weights_sha256"])
    return Section("weights", "Weights", [weights, Text(software)])
