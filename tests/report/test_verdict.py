"""The rules of the verdict, with values computed by hand."""

import pytest

from backdoor_privacy.attacks.chance import holm, num_allowed, rank_p, wilson
from backdoor_privacy.report.verdict import (
    Check,
    Colour,
    Null,
    State,
    check_found,
    check_others,
    check_ranks,
    check_top1,
    colour,
    sentences,
)


def test_interval_is_wilsons():
    # z = 1.959964: of none of n the upper bound is z^2 / (n + z^2); 1 of 4 by Wilson's formula.
    assert wilson(0, 34) == pytest.approx((0, 3.841459 / 37.841459))
    assert wilson(0, 35) == pytest.approx((0, 3.841459 / 38.841459))
    assert wilson(1, 4) == pytest.approx((0.045587, 0.699358), abs=1e-6)


@pytest.mark.parametrize(
    ("count", "rate", "allowed"),
    [
        (1, 0.0, 0),
        (64, 0.0, 0),
        (1, 0.04, 0),  # one of one has a chance of 4 %
        (1, 0.06, 1),
        (2, 0.5, 2),  # both have a chance of 25 %
        (8, 1 / 210, 0),  # one or more has a chance of 1 - (209 / 210) ** 8 = 3.7 %
        (64, 1 / 210, 1),  # one or more: 26 %, two or more: 3.8 %
        (10, 1.0, 10),
    ],
)
def test_null_allows_what_is_not_significantly_more(count: int, rate: float, allowed: int):
    assert num_allowed(count, rate) == allowed


def test_p_values_are_corrected_step_by_step():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5; none falls below the one before it.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert rank_p(1, 999) == 0.001
    assert rank_p(1000, 999) == 1


@pytest.mark.parametrize(
    ("found", "count", "rate", "state"),
    [
        (30, 64, 1 / 210, State.FAILED),
        (1, 64, 1 / 210, State.PASSED),  # upper bound 0.083
        (2, 64, 0.02, State.NOT_SHOWN),  # chance allows three; upper bound 0.107
        (0, 35, 0.0, State.PASSED),
        (0, 34, 0.0, State.PASSED),  # so few are decided by ranks
        (1, 34, 0.0, State.FAILED),
        (0, 1, 0.0, State.PASSED),
        (1, 1, 0.5, State.PASSED),
        (0, 0, 0.0, State.NOT_SHOWN),
    ],
)
def test_found_people_are_compared_with_the_null(found: int, count: int, rate: float, state: State):
    assert check_found("the exact name", found, count, Null(rate, "x")).state is state


def test_without_a_null_nobody_may_be_found():
    assert check_found("x", 0, 8, None).state is State.PASSED
    check = check_found("x", 1, 8, None)
    assert (check.state, check.clause) == (State.FAILED, "x: 1 of 8 people found (allowed: 0)")


@pytest.mark.parametrize(
    ("p_values", "num_random", "state"),
    [
        ([0.3, 0.9], 998, State.PASSED),
        ([0.02, 0.9], 998, State.FAILED),  # 0.04 with Holm
        ([0.03, 0.9], 998, State.PASSED),  # 0.06
        ([0.04], 999, State.FAILED),
        ([1.0], 19, State.NOT_SHOWN),  # the lowest p that there could be is 1 / 20
        ([1.0], 20, State.PASSED),
        ([1.0, 1.0], 38, State.NOT_SHOWN),  # 2 / 39
        ([1.0, 1.0], 40, State.PASSED),
        ([], 999, State.NOT_SHOWN),
    ],
)
def test_ranks_of_a_few_people_are_tested(p_values: list[float], num_random: int, state: State):
    assert check_ranks("the exact name", p_values, num_random, len(p_values)).state is state


def test_people_without_a_rank_are_not_said_to_pass():
    check = check_ranks("the exact name", [0.5], 900, 3)
    assert check.state is State.NOT_SHOWN
    assert check.measured == "0 of 3 better than chance, lowest p 0.05 or more, 2 not measured"
    assert check_ranks("the exact name", [0.01], 900, 3).state is State.FAILED
    assert check_ranks("the exact name", [0.02], 900, 3).state is State.NOT_SHOWN  # 0.06 of three


def test_null_of_a_few_peoples_photos_is_told_in_whole_percent():
    notes = [check_found("x", 0, 1, Null(rate, "random names")).note for rate in (0.0, 0.0012, 0.0049, 0.012, 0.0149)]
    assert [note.split(" (")[0] for note in notes] == [
        "by chance: 0%", *["by chance: less than 1%"] * 2, *["by chance: 1%"] * 2,
    ]  # fmt: skip


def test_few_of_the_others_may_be_lost():
    assert check_others(13, 21).state is State.FAILED
    assert "13 of 21, 61.9% (allowed: 5%)" in check_others(13, 21).clause
    assert [check_others(lost, 100).state for lost in (0, 5, 6)] == [State.PASSED, State.PASSED, State.FAILED]
    assert check_others(0, 0).state is State.NOT_SHOWN


def test_zero_shot_accuracy_may_fall_a_little():
    assert check_top1(0.9, 0.95).measured == "0.000 lost"
    found = [check_top1(0.9, after).state for after in (0.95, 0.88, 0.879, float("nan"))]
    assert found == [State.PASSED, State.PASSED, State.FAILED, State.FAILED]
    assert check_top1(0.9, float("nan")).measured == "nan lost"
    assert check_top1(None, None).state is check_top1(0.9, None).state is State.NOT_SHOWN


PASSED, FAILED, NOT_SHOWN = (Check(state.value, state, "1 of 2", "0") for state in State)


def test_colour_is_that_of_the_worst_check():
    assert colour([PASSED, PASSED]) is Colour.GREEN
    assert colour([PASSED, NOT_SHOWN]) is Colour.AMBER
    assert colour([NOT_SHOWN, FAILED, PASSED]) is Colour.RED


def test_first_sentence_says_what_decides_with_its_number():
    assert sentences([PASSED])[0] == "Green because all conditions passed: passed: 1 of 2 (allowed: 0)."
    amber = "Amber because 1 condition is not shown to be met: not shown: 1 of 2 (allowed: 0)."
    assert sentences([PASSED, NOT_SHOWN]) == (amber, "")
    red, rest = sentences([PASSED, NOT_SHOWN, FAILED])
    assert red == "Red because 1 condition failed: failed: 1 of 2 (allowed: 0)."
    assert rest == "Not shown to be met: not shown: 1 of 2 (allowed: 0)."
