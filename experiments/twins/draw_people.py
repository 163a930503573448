"""Draw whom the twins never see, on the shipped CLIP, and write `people_a.txt` and `people_b.txt`.

A are the 64 people whom `python -m backdoor_privacy +experiment=both_64 seed=0` removes. B are 64 others, drawn among
those whom IDIA infers with the candidates of seed 10; none of them was used in the development of a defence.
"""

import random
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from development_people import development_people, inferred_people  # noqa: E402

from backdoor_privacy.data.selection import select_people  # noqa: E402

SEED_A, SEED_B = 0, 10


def people_a() -> list[str]:
    """Return the people whom the run removes."""
    people, choice, inferred = inferred_people(SEED_A)
    return sorted(person.name for person in select_people(people, choice, seed=SEED_A, inferred=inferred))


def people_b() -> list[str]:
    """Return as many others."""
    _, choice, inferred = inferred_people(SEED_B)
    others = sorted({person.name for person in inferred} - {*people_a(), *development_people()})
    return sorted(random.Random(SEED_B).sample(others, choice.num_people or 0))


if __name__ == "__main__":
    for name, names in (("a", people_a()), ("b", people_b())):
        (FOLDER / f"people_{name}.txt").write_text("".join(f"{one}\n" for one in names), encoding="utf-8")
