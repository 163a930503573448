"""The rules of the verdict, as pure functions of numbers; docs/report.md explains and justifies them."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from backdoor_privacy.attacks.chance import SIGNIFICANCE, holm, num_allowed, rank_p, wilson

MAX_UPPER_BOUND = 0.1  # of the Wilson interval of a rate of removed people, where they are many
NUM_MANY = 35  # the fewest people of whom 0 found have an upper bound of at most 0.1
MAX_LOST = 0.05  # of the others who were inferred before
MAX_TOP1_LOSS = 0.02  # of zero-shot accuracy


class State(Enum):
    """What came of one check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_SHOWN = "not shown"  # not measured, or too little of it to tell


class Colour(Enum):
    """Of a whole report."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class Check(NamedTuple):
    """One condition of a green report."""

    label: str
    state: State
    number: str  # what was measured and what is allowed, as a clause with a subject
    note: str = ""  # where the limit comes from


class Null(NamedTuple):
    """How often an attack finds somebody whom the model cannot know."""

    rate: float
    source: str  # as `1 of 12 never-seen people`


def check_found(label: str, found: int, count: int, null: Null | None) -> Check:
    """Check that an attack finds no more removed people than the null allows.

    Args:
        label: of the attack.
        found: people whom it finds.
        count: people who were looked for.
        null: of the same attack; where there is none, nobody may be found.
    """
    if not count:
        return Check(label, State.NOT_SHOWN, f"{label}: not measured", "there are no photos of the removed people")
    allowed = num_allowed(count, null.rate if null else 0.0)
    note = f"chance finds {null.rate:.1%}: {null.source}" if null else "what chance finds was not measured"
    number = f"{label}: {found} of {count} {_people(count)} found (allowed: {allowed})"
    if found > allowed:
        return Check(label, State.FAILED, number, note)
    high = wilson(found, count)[1]
    if count >= NUM_MANY and high > MAX_UPPER_BOUND:
        bound = f"its rate may be {high:.3f} (allowed: {MAX_UPPER_BOUND})"
        return Check(label, State.NOT_SHOWN, f"{number}, but {bound}", note)
    return Check(label, State.PASSED, number, note)


def check_ranks(label: str, p_values: Sequence[float], num_random: int) -> Check:
    """Check that the name of none of a few people fits their photos better than chance lets random names.

    Args:
        label: of the attack.
        p_values: of each removed person's rank, see `attacks.chance.rank_p`; none where the run did not record them.
        num_random: random names that they are ranked among.
    """
    count, own = len(p_values), f"rank of the own name, {label}"
    if not count:
        return Check(own, State.NOT_SHOWN, f"{own}: not measured", "the run did not record it")
    if count * rank_p(1, num_random) >= SIGNIFICANCE:
        too_few = f"{num_random} random names are too few to test {count} {_people(count)}"
        return Check(own, State.NOT_SHOWN, f"{own}: {too_few}", "raise attack.num_candidates")
    corrected = holm(p_values)
    low = sum(p < SIGNIFICANCE for p in corrected)
    number = f"{own}: better than chance for {low} of {count} (lowest p {min(corrected):.3f}, allowed: {SIGNIFICANCE})"
    note = f"own name among {num_random} random ones on the own photos, Holm's correction"
    return Check(own, State.FAILED if low else State.PASSED, number, note)


def check_others(lost: int, count: int) -> Check:
    """Check that few of the others who were inferred before are lost."""
    label = "others lost"
    if not count:
        return Check(label, State.NOT_SHOWN, "others lost: not measured", "nobody else was inferred before")
    number = f"{lost} of {count} others are lost ({lost / count:.1%}, allowed: {MAX_LOST:.0%})"
    return Check(
        label, State.PASSED if lost <= MAX_LOST * count else State.FAILED, number, "inferred before, not after"
    )


def check_top1(before: float | None, after: float | None) -> Check:
    """Check that the model still names what is on ordinary photos."""
    label = "zero-shot accuracy"
    if before is None or after is None:
        return Check(label, State.NOT_SHOWN, "zero-shot accuracy: not measured", "the run was given no photos for it")
    # Both are ratios of counts: what is 0.02 may be a little more as a number. What is no number does not pass.
    is_small = before - after <= MAX_TOP1_LOSS + 1e-6
    loss = max(0.0, before - after)
    number = f"zero-shot top-1 loses {loss:.3f} (allowed: {MAX_TOP1_LOSS})"
    return Check(label, State.PASSED if is_small else State.FAILED, number, f"{before:.3f} before, {after:.3f} after")


def colour(checks: Sequence[Check]) -> Colour:
    """Return red where something failed, green where everything passed, else amber."""
    states = {check.state for check in checks}
    if State.FAILED in states:
        return Colour.RED
    return Colour.GREEN if states == {State.PASSED} else Colour.AMBER


def sentences(checks: Sequence[Check]) -> tuple[str, str]:
    """Say which checks decide the colour, with the number of each; and, apart from it, what else is not shown."""
    by_state = {state: [check for check in checks if check.state is state] for state in State}
    failed, not_shown = by_state[State.FAILED], by_state[State.NOT_SHOWN]
    if failed:
        rest = f"Besides, this is not shown: {_listed(not_shown)}." if not_shown else ""
        return f"Red, since this failed: {_listed(failed)}.", rest
    if not_shown:
        return f"Amber: what was measured passed, but this is not shown: {_listed(not_shown)}.", ""
    return f"Green: all passed: {_listed(checks)}.", ""


def _listed(checks: Sequence[Check]) -> str:
    return "; ".join(check.number for check in checks)


def _people(count: int) -> str:
    return "person" if count == 1 else "people"
