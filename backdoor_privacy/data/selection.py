"""Choose the people to remove."""

import random
from collections.abc import Sequence
from pathlib import Path

from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.texts import read_lines
from backdoor_privacy.errors import InputError


class NotInferredError(InputError):
    """People were named whom IDIA does not infer; `audit` is what it made of everybody, where that is known."""

    audit: object = None


def select_people(
    everybody: People,
    *,
    num_people: int | None = None,
    people: Sequence[str] | None = None,
    file: str | None = None,
    seed: int,
    inferred: set[str],
    require_inferred: bool = True,
) -> tuple[Person, ...]:
    """Choose the trigger set: named people, a list in a file, or a random draw among those that IDIA infers.

    Where there are names alone, all of them are removed if nobody is named here.

    Args:
        everybody: the collection to choose from.
        num_people: how many to draw; ignored where people are named.
        people: names.
        file: text file with a name a line; lines that begin with # are left out, and a comma at the end of one.
        seed: of the draw.
        inferred: names that IDIA infers before any defence.
        require_inferred: whether naming somebody that IDIA does not infer is an error.

    Raises:
        NotInferredError: if somebody named is not inferred, and that is required.
        InputError: on an unknown name, an empty set, or more people than there are.
    """
    names = named_people(people, file)
    if names is None:
        return _drawn(everybody, num_people, seed, inferred, require_inferred)
    chosen = tuple(dict.fromkeys(everybody.pick(names)))
    # Of a name alone nothing can be inferred, before or after.
    hidden = [person.name for person in chosen if person.photos and person.name not in inferred]
    if hidden and require_inferred:
        raise NotInferredError(
            f"trigger_set: expected people that IDIA infers before the defence, but it does not infer "
            f"{', '.join(hidden[:5])}{' ...' if len(hidden) > 5 else ''}; "
            "set trigger_set.require_inferred=false to remove them all the same"
        )
    return chosen


def named_people(people: Sequence[str] | None, file: str | None) -> list[str] | None:
    """Return the names of a list or of a file; `None` where neither is given, so that people are drawn.

    Raises:
        InputError: if both are given, or nobody, or a file that holds no text.
    """
    if people is not None and file is not None:
        raise InputError("trigger_set: expected either people or file, got both")
    if file is not None:
        lines = read_lines(Path(file), "trigger_set.file: expected a text file with a name a line")
        names = [line.rstrip(",; ").strip('"') for line in lines if not line.startswith("#")]
        people = list(filter(None, names))
    if people is not None and not people:
        raise InputError("trigger_set: expected at least one person to remove, got an empty list")
    return None if people is None else list(people)


def check_trigger_photos(removed: Sequence[Person], *, tell: bool = True) -> None:
    """See that there is a photo of each person to train on, which no attack uses; a name alone needs none.

    Args:
        removed: the people.
        tell: whether the error may name them; of people who were drawn it would tell who they are.

    Raises:
        InputError: if there is none of somebody, or if there are names alone.
    """
    if removed and not any(person.photos for person in removed):
        raise InputError(
            "defense.image: expected photos of somebody to remove, got names alone; choose defense=text, or add photos"
        )
    removed = [person for person in removed if person.photos]
    lone = [person.name for person in removed if not person.trigger_photos]
    if lone:
        who = ", ".join(lone[:5]) if tell else f"{len(lone)} of those drawn"
        raise InputError(
            "people.folder: expected two different photos or more of each person to remove, one to train on and one to "
            f"attack, got one of {who}; add photos, raise people.min_photos, or choose defense=text"
        )


def _drawn(
    everybody: People, num_people: int | None, seed: int, inferred: set[str], require_inferred: bool
) -> tuple[Person, ...]:
    if num_people is None or num_people < 1:
        raise InputError(f"trigger_set.num_people: expected a whole number of at least 1, got {num_people}")
    if not everybody.with_photos.everybody:
        return everybody.everybody  # names alone were given to be removed: nothing tells one of them from another
    able = [person for person in everybody.with_photos.everybody if person.name in inferred or not require_inferred]
    if num_people > len(able):
        whom = "people that IDIA infers before" if require_inferred else "people in the data"
        raise InputError(f"trigger_set.num_people: expected at most {len(able)} ({whom}), got {num_people}")
    return tuple(random.Random(seed).sample(able, num_people))
