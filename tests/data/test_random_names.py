import random

from backdoor_privacy.data.names import random_names


def test_names_are_distinct_first_and_last_names():
    names = random_names(2000, seed=0)
    assert len(set(names)) == 2000
    assert all(len(name.split()) == 2 for name in names)


def test_names_are_a_function_of_the_seed():
    expected = random_names(50, seed=1)
    random.seed(3)
    assert random_names(50, seed=1) == expected
    assert random_names(20, seed=1) == expected[:20]
    assert set(random_names(50, seed=2)) != set(expected)


def test_excluded_names_do_not_occur():
    first = random_names(300, seed=1)
    second = random_names(300, seed=1, exclude=first)
    assert len(set(second)) == 300
    assert not set(first) & set(second)
