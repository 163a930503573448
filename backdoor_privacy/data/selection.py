"""Choose the people to remove."""

import random
from collections.abc import Collection
from pathlib import Path

from backdoor_privacy.config.schema import TriggerSet
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.texts import read_lines
from backdoor_privacy.errors import InputError


class NotInferredError(InputError):
    """Error that IDIA does not infer somebody whom the user named."""


def select_people(
    people: People, choice: TriggerSet, *, seed: int, inferred: Collection[Person] = ()
) -> tuple[Person, ...]:
    """Choose whom to remove: named people, a list in a file, or a random draw among those that IDIA infers.

    If nobody has photos and `choice` names nobody, everybody is removed.

    Args:
        people: the collection to choose from.
        choice: the settings.
        seed: of the draw.
        inferred: whom IDIA infers before any defence.

    Raises:
        NotInferredError: if somebody named is not inferred, and that is required.
        InputError: on an unknown name, an empty set, or more people than there are.
    """
    named = named_people(people, choice)
    if named is None:
        return _drawn(people, choice, seed, inferred)
    # Without photos, nobody can be inferred, before or after.
    hidden = [person.name for person in named if person.photos and person not in inferred]
    if hidden and choice.require_inferred:
        raise NotInferredError(
            f"trigger_set: expected people that IDIA infers before the defence, but it does not infer "
            f"{', '.join(hidden[:5])}{' ...' if len(hidden) > 5 else ''}; "
            "set trigger_set.require_inferred=false to remove them all the same"
        )
    return named


def named_people(people: People, choice: TriggerSet) -> tuple[Person, ...] | None:
    """Return the people of a list or of a file, each once; `None` where neither is given, so that people are drawn.

    Raises:
        InputError: see `listed_names`, or if somebody is not in the collection.
    """
    names = listed_names(choice)
    return None if names is None else tuple(dict.fromkeys(people.pick(names)))


def listed_names(choice: TriggerSet) -> list[str] | None:
    """Return the names of a list or of a file, as they are written there; `None` where neither is given.

    Raises:
        InputError: if both are given, the list is empty, or the file holds no text.
    """
    names, file = choice.people, choice.file
    if names is not None and file is not None:
        raise InputError("trigger_set: expected either people or file, got both")
    if file is not None:
        names = names_in_file(Path(file), "trigger_set.file")
    if names is not None and not names:
        raise InputError("trigger_set: expected at least one person to remove, got an empty list")
    return None if names is None else list(names)


def names_in_file(file: Path, key: str) -> list[str]:
    """Return the names of a file, one a line; lines that begin with # and commas at the ends are left out.

    Raises:
        InputError: if it holds no text.
    """
    lines = read_lines(file, f"{key}: expected a text file with a name a line")
    written = [line.rstrip(",; ").strip('"') for line in lines if not line.startswith("#")]
    return list(filter(None, written))


def _drawn(people: People, choice: TriggerSet, seed: int, inferred: Collection[Person]) -> tuple[Person, ...]:
    num_people = choice.num_people
    if num_people is None or num_people < 1:
        raise InputError(f"trigger_set.num_people: expected a whole number of at least 1, got {num_people}")
    shown = people.with_photos.everybody
    if not shown:
        return people.everybody  # a list of names without photos is a list of people to remove
    known = set(inferred)
    candidates = [person for person in shown if person in known or not choice.require_inferred]
    if num_people > len(candidates):
        whom = "people that IDIA infers before" if choice.require_inferred else "people in the data"
        raise InputError(f"trigger_set.num_people: expected at most {len(candidates)} ({whom}), got {num_people}")
    return tuple(random.Random(seed).sample(candidates, num_people))
