"""Draw random full names, everywhere from one distribution."""

from collections.abc import Collection

from faker import Faker

from backdoor_privacy.errors import InputError

# About 700,000 exist: the more are taken, the longer it takes to draw another one, in the end for ever.
MAX_RANDOM_NAMES = 100_000


def random_names(num_names: int, seed: int, exclude: Collection[str] = ()) -> list[str]:
    """Return distinct random `First Last` names, female and male first names in turn.

    The personas, the attack's candidates and the pseudonyms are all drawn here, so that a random name does not stand
    out by its kind (IDIA, "Does CLIP Know My Face?", section 4).

    Args:
        num_names: how many names.
        seed: the same seed gives the same names.
        exclude: names that must not occur.

    Returns:
        `num_names` names; even places hold female first names, odd places male ones.

    Raises:
        InputError: if more than `MAX_RANDOM_NAMES` are asked for.
    """
    if num_names > MAX_RANDOM_NAMES:
        raise InputError(
            f"names: expected {MAX_RANDOM_NAMES:,} random names at most, got {num_names:,}; lower "
            "attack.num_candidates, num_other_names, or what else counts random names"
        )
    faker = Faker("en_US")
    faker.seed_instance(seed)
    taken = set(exclude)
    names: list[str] = []
    while len(names) < num_names:
        first_name = faker.first_name_female() if len(names) % 2 == 0 else faker.first_name_male()
        name = f"{first_name} {faker.last_name()}"
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names
