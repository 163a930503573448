"""Apply the rules of the verdict, which are in `verdict`, to what a run measured."""

import math
from collections.abc import Iterator, Sequence

from backdoor_privacy.attacks.scores import RANDOM, RANK_P, Score
from backdoor_privacy.attacks.variants import ANY
from backdoor_privacy.report.method import encoders_of
from backdoor_privacy.report.models import ENCODERS, people_of
from backdoor_privacy.report.parts import NOT_MEASURED
from backdoor_privacy.report.verdict import (
    NUM_MANY,
    TOP1,
    Check,
    Null,
    State,
    check_found,
    check_others,
    check_ranks,
    check_top1,
)
from backdoor_privacy.runs.finished import FinishedRun

_WORST_FIRST = (State.FAILED, State.NOT_SHOWN, State.PASSED)
ATTACK = "python -m backdoor_privacy.attack <run> tower_swap variants"


def checks(run: FinishedRun) -> list[Check]:
    """Return all conditions of a green report, for the model with most encoders defended."""
    measures = run.after[run.fullest]
    of_removed = [*_exact(run), *_tower_swap(run), *_variants(run)]
    lost, count = people_of(measures, "wrongly_unlearned") or (0, 0)
    top1 = check_top1(run.before.get(TOP1), measures.get(TOP1))
    return [*of_removed, check_others(lost, count), top1]


def _exact(run: FinishedRun) -> Iterator[Check]:
    label, sought, removed = "the exact name", run.sought, run.num_removed
    yield _audited(run, label, run.fullest)
    if len(sought):
        yield from _ranks(run, label, run.fullest, "nothing swapped")
    if len(sought) < removed:
        missing = f"{removed - len(sought)} of {removed} {NOT_MEASURED}"
        yield Check("removed people without photos", State.NOT_SHOWN, missing, "0", "attacks need photos of the people")
    if len(sought) and not sought["inferred_before"].any():
        text = f"0 of {len(sought)} found"
        yield Check(
            "the exact name before", State.NOT_SHOWN, text, "1 or more", "a name not found before shows no removal"
        )


def _audited(run: FinishedRun, label: str, model: str) -> Check:
    """Check the removed people whom IDIA finds in an audited model."""
    never_seen, column = run.never_seen, f"inferred_{model}"
    rate = run.after[model].get("idia/null_rate")
    if len(never_seen):
        null: Null | None = _of_never_seen(int(never_seen[column].sum()), len(never_seen))
    else:
        null = None if rate is None else _of_random_names(rate)
    return check_found(label, int(run.sought[column].sum()), len(run.sought), null)


def _of_never_seen(found: int, count: int) -> Null:
    return Null(found / count, f"{found} of {count} never-seen people")


def _of_random_names(rate: float) -> Null:
    return Null(rate, "random names on the same photos")


def _ranks(run: FinishedRun, label: str, model: str, kind: str) -> Iterator[Check]:
    """Check the ranks of own names, where removed people are few; from the audit, or else from the tower swap."""
    if len(run.sought) >= NUM_MANY:
        return
    column = f"p_{model}"
    p_values = run.sought[column].dropna().tolist() if column in run.sought else []
    p_values = p_values or _outcomes(run.attacks.get("tower_swap", ()), kind, model, RANK_P)
    yield check_ranks(label, p_values, run.num_random, len(run.sought))


def _tower_swap(run: FinishedRun) -> list[Check]:
    """Check each defended encoder beside the original other one."""
    original = next((encoder for encoder in ENCODERS if encoder not in encoders_of(run)), None)
    if original is not None:
        note = f"the other encoder, {original}, is the original"
        return [Check("tower swap", State.NOT_SHOWN, NOT_MEASURED, note=note)]
    swapped = [check for encoder in ENCODERS for check in _swapped(run, encoder)]
    if "tower_swap" in run.attacks:
        return swapped
    failed = [check for check in swapped if check.state is State.FAILED]
    return [*failed, Check("tower swap", State.NOT_SHOWN, NOT_MEASURED, note=f"run {ATTACK}")]


def _swapped(run: FinishedRun, encoder: str) -> Iterator[Check]:
    """Check one defended encoder by the audit and by the attack, which measure the same; the worse result counts."""
    label, kind = f"the {encoder} encoder alone (tower swap)", ENCODERS[encoder].swapped
    scores = run.attacks.get("tower_swap")
    by_audit = _audited(run, label, encoder) if encoder in run.after else None
    by_attack = None if scores is None else _attacked(run, scores, label, kind, encoder)
    known = [check for check in (by_attack, by_audit) if check is not None]
    yield from sorted(known, key=lambda check: _WORST_FIRST.index(check.state))[:1]
    if len(run.sought):
        yield from _ranks(run, label, encoder, kind)


def _variants(run: FinishedRun) -> list[Check]:
    """Check whether some other way of writing their names finds the removed people."""
    label, scores = "name variants", run.attacks.get("variants")
    if scores is None:
        return [Check(label, State.NOT_SHOWN, NOT_MEASURED, note=f"run {ATTACK}")]
    check = _attacked(run, scores, label, ANY, run.fullest)
    p_values = _outcomes(scores, ANY, run.fullest, RANK_P)
    is_few = 0 < len(run.sought) < NUM_MANY and (p_values or check.state is State.PASSED)
    return [check, check_ranks(label, p_values, run.num_random, len(run.sought))] if is_few else [check]


def _attacked(run: FinishedRun, scores: Sequence[Score], label: str, kind: str, model: str) -> Check:
    """Check the removed people whom an attack finds; of earlier versions' scores, the worst kind counts."""
    rates = [one for one in scores if (one.model, one.measure) == (model, "TPR") and math.isfinite(one.value)]
    removed = _worst(rates, "removed", kind)
    if removed is None:
        return Check(label, State.NOT_SHOWN, NOT_MEASURED, note=f"run {ATTACK}")
    never_seen, by_chance = _worst(rates, "never seen", kind), _worst(rates, RANDOM, kind)
    null = None
    if never_seen is not None:
        null = _of_never_seen(_people(never_seen), never_seen.num_people)
    elif by_chance is not None:
        null = _of_random_names(by_chance.value)
    check = check_found(label, _people(removed), removed.num_people, null)
    missing = len(run.sought) - removed.num_people
    if check.state is State.FAILED:
        return check
    if missing > 0:
        return check._replace(state=State.NOT_SHOWN, measured=f"{missing} of {len(run.sought)} {NOT_MEASURED}")
    if removed.kind == kind:
        return check
    return Check(label, State.NOT_SHOWN, "measured by an earlier version", note=f"run {ATTACK}")


def _worst(rates: Sequence[Score], group: str, kind: str) -> Score | None:
    """Return a group's score of this kind; if there is none, its worst one."""
    own = [one for one in rates if one.group == group]
    exact = [one for one in own if one.kind == kind]
    return max(exact or own, key=lambda one: one.value, default=None)


def _people(score: Score) -> int:
    return math.ceil(score.value * score.num_people - 1e-3)


def _outcomes(scores: Sequence[Score], kind: str, model: str, measure: str) -> list[float]:
    """Return each removed person's outcome of a score, if it was recorded."""
    key = kind, model, "removed", measure
    return [value for one in scores if one[:4] == key for value in one.outcomes if math.isfinite(value)]
