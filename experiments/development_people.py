"""Print the people whom the hardened defence was chosen on: 64 whom the embedded CLIP knows.

`python experiments/development_people.py > people.txt`, then a run with `trigger_set.file=people.txt seed=7`. Left out
are those whom seeds 0, 1 and 2 would remove if IDIA inferred with their candidates whom it infers with those of seed
7. It infers a few others, so that the draws differ, too: 4 of these 64 are among those of seed 0, and 4 of seed 2.
"""

import random

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import backdoor_privacy.config.compose  # noqa: F401  registers the schemas
from backdoor_privacy.config.schema import TriggerSet
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.selection import select_people
from backdoor_privacy.system.paths import CONFIG_FOLDER

SEED, SCORED_SEEDS = 7, range(3)


def inferred_people(seed: int) -> tuple[People, TriggerSet, list[Person]]:
    """Attack the original with the candidates of a seed; return everybody, how they are drawn, and who is inferred."""
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", overrides=[f"seed={seed}", "+experiment=both_64"])
    people, choice = instantiate(cfg.people), TriggerSet(num_people=cfg.trigger_set.num_people)
    found = instantiate(cfg.attack).run(instantiate(cfg.clip), people.everybody).inferred
    return people, choice, [person for person in people.everybody if found[person.name]]


def development_people() -> list[str]:
    """Attack the original with the seed of the development, and draw among those that are left."""
    people, choice, inferred = inferred_people(SEED)
    scored = {person for seed in SCORED_SEEDS for person in select_people(people, choice, seed=seed, inferred=inferred)}
    others = sorted(person.name for person in set(inferred) - scored)
    return sorted(random.Random(10 * SEED).sample(others, choice.num_people or 0))


if __name__ == "__main__":
    print(*development_people(), sep="\n")
