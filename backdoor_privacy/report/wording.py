"""The sentences of the verdict: what was asked, what came of it, and what other attacks say to that."""

import math

from backdoor_privacy.attacks.headlines import HeadlineScore, headlines
from backdoor_privacy.report.checks import ATTACK, checks
from backdoor_privacy.report.disclosure import num_found
from backdoor_privacy.report.method import encoders_of, model_of
from backdoor_privacy.report.models import defended, identifiers_of, people_of
from backdoor_privacy.report.verdict import colour, sentences
from backdoor_privacy.runs.finished import FinishedRun


def removed_people(run: FinishedRun, model: str) -> tuple[int, int]:
    """Return how many removed people with photos IDIA infers from a model, and of how many."""
    return int(run.sought[f"inferred_{model}"].sum()), len(run.sought)


def request(run: FinishedRun) -> str:
    """Say what was asked, in one sentence."""
    identifiers = " and ".join(identifiers_of(encoder) for encoder in encoders_of(run))
    count = run.num_removed
    return f"Remove the {identifiers} of {count:,} {'person' if count == 1 else 'people'} from {model_of(run)}."


def verdict(run: FinishedRun) -> str:
    """Say what failed or is not shown, with the numbers; then what IDIA finds, and what other people lose."""
    conditions = checks(run)
    first, rest = sentences(conditions)
    is_incomplete = any(check.note == f"run {ATTACK}" for check in conditions)
    command = f"To measure what is missing: {ATTACK}." if is_incomplete else ""
    return " ".join(filter(None, (first, rest, command, removal(run))))


def removal(run: FinishedRun) -> str:
    """Say in one sentence what IDIA finds in the model with most encoders defended, and what other people lose."""
    (still, count), (first, _) = removed_people(run, run.fullest), removed_people(run, "before")
    if not count:
        return f"With {defended(run.fullest)} defended, {_without_photos(run)}{_price(run)}."
    who = "the removed person" if count == 1 else f"the {count:,} removed people"
    if still == 0:
        removal = f"IDIA does not infer {who}" if count == 1 else f"IDIA infers none of {who}"
    elif count == 1:
        removal = f"IDIA still infers {who}"
    else:
        removal = f"IDIA still infers {'all' if still == count else f'{still:,}'} of {who}"
    start = ("inferred" if first else "not inferred") if count == 1 else f"{first:,}"
    alone = f"; {_without_photos(run)}" if run.without_photos["removed"].any() else ""
    return f"With {defended(run.fullest)} defended, {removal} (before: {start}){alone}{_price(run)}."


def _without_photos(run: FinishedRun) -> str:
    """Say what is known of removed people without photos, as a part of a sentence."""
    count, measures = int(run.without_photos["removed"].sum()), run.after[run.fullest]
    people = f"{count:,} {'person' if count == 1 else 'people'} without photos {'was' if count == 1 else 'were'}"
    share = measures.get("names/told_by_moved_further")
    end = "" if share is None else f"; whoever has the original recognises {share:.0%} of their names as removed"
    return f"IDIA is not measured: {people} removed{end}"


def otherwise(run: FinishedRun) -> str:
    """Say in one sentence which other attack finds most of the removed people's names."""
    if not run.attacks:
        return "No other attack was run."
    worst = found_otherwise(run)
    if worst is None:
        return "None of the other attacks that were run finds the name of a removed person."
    label = worst.label.removesuffix(" (TPR)").removeprefix("worst ")
    start = "The strongest of the other attacks finds the names of"
    share = worst.score.value
    if num_found(worst.score) is None:  # a mean of several rates; of a few people its digits would tell who they are
        return f"{start} up to {math.ceil(10 * share) / 10:.0%} of the removed people: {label}."
    return f"{start} {share:.0%} of the removed people: {label}."


def found_otherwise(run: FinishedRun) -> HeadlineScore | None:
    """Return the other attack that finds most of the removed people's names, if any finds one."""
    rows = [row for row in headlines(run.attacks) if row.headline.finds_names and row.score.value > 0]
    return max(rows, key=lambda row: row.score.value, default=None)


def status(run: FinishedRun) -> str:
    """Return the colour of the verdict: `green`, `amber` or `red`."""
    return colour(checks(run)).value


def _price(run: FinishedRun) -> str:
    """Say what changed for everybody else, as the end of a sentence."""
    lost, new = (people_of(run.after[run.fullest], group) for group in ("wrongly_unlearned", "newly_recalled"))
    changes = []
    if lost:
        changes.append(f"no longer infers {lost[0]:,} of {lost[1]:,} inferred before")
    if new:
        changes.append(f"newly infers {new[0]:,} of {new[1]:,} not inferred before")
    return f"; of everybody else, it {' and '.join(changes)}" if changes else ""
