"""The report of an audit of named people: a page, metrics, and a table of what was found of whom."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from backdoor_privacy.attacks.chance import SIGNIFICANCE, holm, rank_p
from backdoor_privacy.attacks.idia import TEMPLATES, IdiaResult
from backdoor_privacy.data.cells import csv_text
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.errors import InputError
from backdoor_privacy.evaluation import Audit, idia_rates, null_rates
from backdoor_privacy.report.disclosure import coarse_percent, people_note
from backdoor_privacy.report.html import templates
from backdoor_privacy.runs.finished import code_names
from backdoor_privacy.runs.folder import read_metrics, write_metrics
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.versions import versions


class Sought(NamedTuple):
    """One named person, and what the attack found of them."""

    name: str
    num_photos: int
    correct_prompts: int
    found: bool
    rank: int | None  # of the own name among the random ones, 1 for the best
    p: float | None  # of this rank
    p_holm: float | None  # corrected for all people named
    outcome: str


def sought(result: IdiaResult, named: Sequence[Person]) -> list[Sought]:
    """Return what the attack found of each of these people, in their order."""
    chance, row_of = result.evidence.chance, {name: row for row, name in enumerate(result.names)}
    rows = [row for person in named if (row := row_of.get(person.name)) is not None and result.num_photos[row]]
    ranks, num_random = (chance.ranks.tolist(), chance.num_random) if chance else ([1] * len(result.names), 0)
    p_values = [rank_p(ranks[row], num_random) for row in rows]
    corrected = dict(zip(rows, holm(p_values), strict=True))
    people = []
    for person in named:
        row = row_of.get(person.name)
        if row is None or row not in corrected:
            people.append(Sought(person.name, 0, 0, False, None, None, None, outcome(0, 0, 1, 1, 0, 1.0)))
            continue
        correct, photos, p = result.correct_prompts[row], result.num_photos[row], rank_p(ranks[row], num_random)
        text = outcome(correct, photos, result.threshold, ranks[row], num_random, corrected[row])
        is_found = correct >= result.threshold
        people.append(Sought(person.name, photos, correct, is_found, ranks[row], p, corrected[row], text))
    return people


def outcome(correct: int, num_photos: int, threshold: int, rank: int, num_random: int, p: float) -> str:
    """Say what came of one person.

    Args:
        correct: prompts that answered with the person's name.
        num_photos: photos of them that could be read.
        threshold: right answers that it takes to find somebody.
        rank: of the own name among random ones.
        num_random: the number of random names.
        p: of the rank, corrected for all people named.
    """
    if not num_photos:
        return "not measured: there is no photo of this person to look at"
    numbers = f"{correct} of {len(TEMPLATES)} prompts, rank {rank} of {num_random + 1}, p {p:.3f}"
    if correct >= threshold:
        return f"found with {numbers}"
    known = "; yet the name fits the photos better than random names do by chance" if p < SIGNIFICANCE else ""
    return f"looked for in this way, not found: {numbers}{known}"


def brief(person: Sought) -> str:
    """Say what came of one person without their numbers."""
    if not person.num_photos:
        return "not measured"
    if person.found:
        return "found"
    is_known = person.p_holm is not None and person.p_holm < SIGNIFICANCE
    return "not found, yet the name fits better than chance" if is_known else "not found"


def write_audit(
    folder: Path,
    audit: Audit,
    people: People,
    named: Sequence[Person],
    *,
    facts: Mapping[str, object],
    names: bool = False,
) -> Path:
    """Write `report.html`, `metrics.json` and `people.csv` of an audit; only the table holds names in any case.

    Args:
        folder: of the audit.
        audit: results of everybody.
        people: everybody who was attacked.
        named: the people whom the audit is about.
        facts: `experiment`, `seed` and `weights_sha256` for `metrics.json`.
        names: whether the page may hold names and everybody's numbers; else it counts people.

    Returns:
        The page.

    Raises:
        InputError: if the folder is that of a finished run.
    """
    if "after" in (read_metrics(folder) or {}):
        raise InputError(
            f"{folder}: expected a folder for an audit, got one of a finished run; choose another paths.run"
        )
    rows = sought(audit.idia, named)
    measures = _measures(audit, people, {person.name for person in named})
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=list(Sought._fields))
    write_text(folder / "people.csv", csv_text(table, float_format="%.5g"), private=True)
    outcomes = _outcomes(rows, code_names(folder, [row.name for row in rows]))
    write_metrics(folder, {**facts, "audit": measures, "people": outcomes, "versions": versions()})
    num_others = len(people.everybody) - len(rows)
    content = _page(rows, measures, facts, threshold=audit.idia.threshold, num_others=num_others, names=names)
    write_text(folder / "report.html", content, private=True)
    return folder / "report.html"


def _measures(audit: Audit, people: People, chosen: set[str]) -> dict[str, float]:
    """Return what was measured, with the rates of those whom the audit is about."""
    members = {person.name: person.member for person in people.everybody}
    rates = idia_rates(audit.idia.measured, audit.idia.measured, chosen, members)
    return {**rates, **null_rates(audit.idia, chosen), **audit.utility}


def _outcomes(rows: Sequence[Sought], codes: Mapping[str, str]) -> list[dict[str, str | bool]]:
    """Return each person's outcome by code, without numbers: with CLIP and photos, numbers would identify people."""
    return [
        {"person": codes[row.name], "found": row.found, "outcome": brief(row)}
        for row in sorted(rows, key=lambda row: codes[row.name])
    ]


def _page(
    rows: Sequence[Sought],
    measures: Mapping[str, float],
    facts: Mapping[str, object],
    *,
    threshold: int,
    num_others: int,
    names: bool,
) -> str:
    return (
        templates()
        .get_template("audit.html.j2")
        .render(
            rows=rows if names else [],
            outcomes=Counter(brief(row) for row in rows),
            num_named=len(rows),
            num_found=sum(row.found for row in rows),
            num_measured=sum(row.num_photos > 0 for row in rows),
            note=people_note(names=names),
            null=_null(measures),
            facts=facts,
            threshold=threshold,
            num_prompts=len(TEMPLATES),
            num_others=num_others,
            num_random=int(measures.get("idia/num_random_names", 0)),
        )
    )


def _null(measures: Mapping[str, float]) -> str:
    """Say how often the attack finds somebody whom the model cannot know."""
    texts = []
    if "idia/fpr" in measures:
        count = round(measures["idia/num_fpr"])
        texts.append(f"it finds {round(measures['idia/fpr'] * count)} of {count} people who are known to be never seen")
    if "idia/null_rate" in measures:
        rate = coarse_percent(measures["idia/null_rate"])
        texts.append(f"on these photos it finds {rate} of random names in place of the person's own")
    return "; ".join(texts) or "this was not measured"
