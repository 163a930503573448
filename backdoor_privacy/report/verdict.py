"""The rules of the verdict, as pure functions of numbers; docs/report.md explains and justifies them."""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from backdoor_privacy.attacks.chance import SIGNIFICANCE, holm, num_allowed, rank_p, wilson
from backdoor_privacy.report.disclosure import coarse_p, coarse_percent
from backdoor_privacy.report.parts import NOT_MEASURED

TOP1 = "zero_shot/top1"  # the one measure of utility that the verdict has a limit for
TOP1_LOSS = "zero_shot_top1_loss"  # its column in collected.csv
MAX_UPPER_BOUND = 0.1  # of the Wilson interval of a rate of removed people, where they are many
NUM_MANY = 35  # the fewest people of whom 0 found have an upper bound of at most 0.1
MAX_LOST = 0.05  # of the others who were inferred before
MAX_TOP1_LOSS = 0.02  # of zero-shot accuracy


class State(Enum):
    """The result of one check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_SHOWN = "not shown"  # it was not measured, or the data are too few to tell


class Colour(Enum):
    """The colour of a whole report."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class Check(NamedTuple):
    """One condition of a green report."""

    label: str
    state: State
    measured: str
    allowed: str = ""
    note: str = ""  # where the limit comes from, or why nothing was measured

    @property
    def clause(self) -> str:
        """Return the check as a part of a sentence."""
        return f"{self.label}: {self.measured}" + (f" (allowed: {self.allowed})" if self.allowed else "")


class Null(NamedTuple):
    """How often an attack finds somebody whom the model cannot know."""

    rate: float
    source: str  # as `1 of 12 never-seen people`


def check_found(label: str, found: int, count: int, null: Null | None) -> Check:
    """Check that an attack finds no more removed people than it would by chance (the null).

    Args:
        label: what the check is called.
        found: the number of people whom the attack finds.
        count: the number of people who were looked for.
        null: how often the same attack finds somebody by chance; if that was not measured, nobody may be found.
    """
    if not count:
        return Check(label, State.NOT_SHOWN, NOT_MEASURED, note="there are no photos of the removed people")
    allowed = num_allowed(count, null.rate if null else 0.0)
    note = f"by chance: {coarse_percent(null.rate)} ({null.source})" if null else "the rate by chance was not measured"
    measured = f"{found} of {count} {_people(count)} found"
    if found > allowed:
        return Check(label, State.FAILED, measured, str(allowed), note)
    high = wilson(found, count)[1]
    if count >= NUM_MANY and high > MAX_UPPER_BOUND:
        bound = f"{allowed}, and an upper bound of {MAX_UPPER_BOUND}"
        return Check(label, State.NOT_SHOWN, f"{measured}, upper bound of the rate {high:.3f}", bound, note)
    return Check(label, State.PASSED, measured, str(allowed), note)


def check_ranks(attack: str, p_values: Sequence[float], num_random: int, count: int) -> Check:
    """Check for a few people that nobody's name fits their photos better than random names do by chance.

    Args:
        attack: the attack that ranked the names.
        p_values: of removed people's ranks, see `attacks.chance.rank_p`; empty if the run did not record them.
        num_random: the number of random names that they are ranked among.
        count: the number of removed people with photos.
    """
    label, missing = f"{attack}, by rank", count - len(p_values)
    if not p_values:
        return Check(label, State.NOT_SHOWN, NOT_MEASURED, note="the run did not record the ranks of own names")
    allowed = f"p {SIGNIFICANCE} or more"
    if count * rank_p(1, num_random) >= SIGNIFICANCE:
        too_few = f"{num_random} random names are too few for {count} {_people(count)}; raise attack.num_candidates"
        return Check(label, State.NOT_SHOWN, NOT_MEASURED, allowed, too_few)
    corrected = holm([*p_values, *[1.0] * missing])
    num_low = sum(p < SIGNIFICANCE for p in corrected)
    measured = f"{num_low} of {count} better than chance, lowest p {coarse_p(min(corrected))}"
    measured += f", {missing} {NOT_MEASURED}" if missing else ""
    note = f"each person's own name among {num_random} random ones on the same photos; p with Holm's correction"
    passed = State.NOT_SHOWN if missing else State.PASSED
    return Check(label, State.FAILED if num_low else passed, measured, allowed, note)


def check_others(lost: int, count: int) -> Check:
    """Check that few of the others who were inferred before are lost."""
    label = "others lost"
    if not count:
        return Check(label, State.NOT_SHOWN, NOT_MEASURED, note="nobody else was inferred before")
    state = State.PASSED if lost <= MAX_LOST * count else State.FAILED
    measured = f"{lost} of {count}, {lost / count:.1%}"
    return Check(label, state, measured, f"{MAX_LOST:.0%}", "people inferred before and not after")


def check_top1(before: float | None, after: float | None) -> Check:
    """Check that the model still classifies ordinary photos."""
    label = "zero-shot top-1"
    if before is None or after is None:
        return Check(label, State.NOT_SHOWN, NOT_MEASURED, note="there are no photos with classes")
    # Both are ratios of counts: a loss of 0.02 may be a little more as a float. A NaN does not pass.
    is_small = before - after <= MAX_TOP1_LOSS + 1e-6
    measured = f"{max(before - after, 0.0):.3f} lost"
    note = f"accuracy {before:.3f} before, {after:.3f} after"
    return Check(label, State.PASSED if is_small else State.FAILED, measured, str(MAX_TOP1_LOSS), note)


def colour(checks: Sequence[Check]) -> Colour:
    """Return red if something failed, green if everything passed, else amber."""
    states = {check.state for check in checks}
    if State.FAILED in states:
        return Colour.RED
    return Colour.GREEN if states == {State.PASSED} else Colour.AMBER


def sentences(checks: Sequence[Check]) -> tuple[str, str]:
    """Say which checks decide the colour, with their numbers; and, apart from that, what else is not shown."""
    by_state = {state: [check for check in checks if check.state is state] for state in State}
    failed, not_shown = by_state[State.FAILED], by_state[State.NOT_SHOWN]
    if failed:
        rest = f"Not shown to be met: {_listed(not_shown)}." if not_shown else ""
        return f"Red because {_conditions(failed)} failed: {_listed(failed)}.", rest
    if not_shown:
        verb = "is" if len(not_shown) == 1 else "are"
        return f"Amber because {_conditions(not_shown)} {verb} not shown to be met: {_listed(not_shown)}.", ""
    return f"Green because all conditions passed: {_listed(checks)}.", ""


def _listed(checks: Sequence[Check]) -> str:
    return "; ".join(check.clause for check in checks)


def _conditions(checks: Sequence[Check]) -> str:
    return "1 condition" if len(checks) == 1 else f"{len(checks)} conditions"


def _people(count: int) -> str:
    return "person" if count == 1 else "people"
