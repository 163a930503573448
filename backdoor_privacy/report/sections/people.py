"""What became of everybody who was attacked: as numbers of people, or one by one."""

from collections import Counter
from collections.abc import Hashable, Mapping

from backdoor_privacy.report.models import defended, model_label
from backdoor_privacy.report.parts import NOT_MEASURED, Cell, Everybody, Part, Row, Section, Table, Text
from backdoor_privacy.runs.finished import FinishedRun

# By whether somebody is inferred before and after.
_CHANGES = {(True, True): "still", (True, False): "no longer", (False, True): "newly", (False, False): "never"}


def people(run: FinishedRun) -> Section:
    """Say what became of everybody: one by one in a report with names, else as numbers of people."""
    text = f"Whether IDIA infers people from the model with {defended(run.fullest)} defended, compared with before."
    rows = people_rows(run) if run.has_names else []
    shown: Part = Everybody(rows) if rows else groups_table(run)
    return Section("people", "Everybody who was attacked", [Text(text), shown])


def groups_table(run: FinishedRun) -> Table:
    """Return what became of everybody as numbers of people, which identify nobody."""
    people = [(_group(person), _change(run, person)) for person in run.people.to_dict("records")]
    people += [("removed" if removed else "kept", NOT_MEASURED) for removed in run.without_photos["removed"]]
    counts, columns = Counter(people), [*_CHANGES.values(), *([NOT_MEASURED] if len(run.without_photos) else [])]
    present = {group for group, _ in people}
    rows = [
        Row(group.capitalize(), "", [Cell(f"{counts[group, column]:,}") for column in columns])
        for group in ("removed", "kept", "never seen")
        if group in present
    ]
    caption = "People, by whether IDIA infers them: still, no longer, newly, or never (neither before nor after)"
    return Table(caption, columns, rows, first="People")


def _group(person: Mapping[Hashable, object]) -> str:
    never_seen = person["member"] in (False, "False", "false")
    return "removed" if person["removed"] else "never seen" if never_seen else "kept"


def _change(run: FinishedRun, person: Mapping[Hashable, object]) -> str:
    return _CHANGES[bool(person["inferred_before"]), bool(person[f"inferred_{run.fullest}"])]


def people_rows(run: FinishedRun) -> list[dict[str, str | int]]:
    """Return a row for everybody by column: who they are, and the right answers before and after.

    Whoever has the original and the photos can compute these numbers, so they are as good as names.
    """
    rows = []
    for person in run.people.to_dict("records"):
        row: dict[str, str | int] = {
            "Person": person["person"],
            "Group": _group(person),
            "Photos": person["num_photos"],
        }
        for model in ("before", *run.after):
            row[f"Correct prompts {model_label(model)}"] = person[f"correct_prompts_{model}"]
        rows.append({**row, "Inferred": _change(run, person)})
    columns = [*(f"Correct prompts {model_label(model)}" for model in ("before", *run.after)), "Inferred"]
    for person in run.without_photos.to_dict("records"):
        group = "removed" if person["removed"] else "kept"
        rows.append({"Person": person["person"], "Group": group, "Photos": 0, **dict.fromkeys(columns, NOT_MEASURED)})
    return rows
