"""The model card of a defended CLIP: Markdown with the metadata that the Hugging Face hub reads."""

from backdoor_privacy.report import wording
from backdoor_privacy.report.html import templates
from backdoor_privacy.report.tables import Cell, attacks_table, idia_table, kept_table, names_table, utility_table
from backdoor_privacy.runs.finished import FinishedRun


def model_card(run: FinishedRun) -> str:
    """The card of the model that a run saved; it holds nobody's name."""
    tables = [idia_table(run), kept_table(run), utility_table(run)]
    columns = tables[0].columns
    rows = [
        # Changes have no column before.
        (row.label, [Cell("")] * (len(columns) - len(row.cells)) + list(row.cells))
        for table in tables
        for row in table.rows
    ]
    return (
        templates()
        .get_template("model_card.md.j2")
        .render(
            run=run,
            is_text_model=run.setting("clip.text_model") is not None,
            repository=wording.repository(run),
            request=wording.request(run),
            verdict=wording.verdict(run),
            otherwise=wording.otherwise(run),
            attacks=attacks_table(run),
            names=names_table(run),
            asked=wording.asked(run),
            columns=columns,
            rows=rows,
            limits=wording.limits(run),
            defended=wording.defended(run.fullest),
        )
    )
