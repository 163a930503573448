"""See that defences can do what a run asks of them, before anything is computed."""

from collections.abc import Mapping, Sequence

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import Trainer
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.selection import check_trigger_photos
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.base import Defense
from backdoor_privacy.errors import InputError


def check_defenses(
    defenses: Mapping[str, Defense],
    clip: Clip | None,
    sources: Sources,
    people: Sequence[Person] | int | None,
    trainer: Trainer,
    *,
    tell: bool = True,
) -> None:
    """See that the defences can remove these people with these data; `check_data` and a run ask the same.

    Args:
        defenses: by name.
        clip: to defend; `None` where it is not loaded.
        sources: of the data.
        people: whom to remove, or how many, where they are not drawn yet; `None`: not known.
        trainer: Lightning's settings.
        tell: whether an error may name the people.

    Raises:
        InputError: on the first thing that would stop a run.
    """
    if not defenses:
        raise InputError("defense: expected a method that removes people, got none; choose defense=both, text or image")
    if isinstance(people, Sequence) and any(defense.needs_photos for defense in defenses.values()):
        check_trigger_photos(people, tell=tell)  # first: with names alone no other part helps
    count = len(people) if isinstance(people, Sequence) else people
    for defense in defenses.values():
        for problem in defense.problems(clip, sources, count or 1, trainer):
            raise InputError(problem)
    sources.check([part for part in ("captions", "images", "strangers") if part in needed_parts(defenses)])


def needed_parts(defenses: Mapping[str, Defense]) -> frozenset[str]:
    """Return the parts of the data that the defences cannot do without."""
    return frozenset().union(*(defense.needs for defense in defenses.values()))


def used_parts(defenses: Mapping[str, Defense]) -> frozenset[str]:
    """Return the parts of the data that the defences take where they are there."""
    return frozenset().union(*(defense.uses for defense in defenses.values()))
