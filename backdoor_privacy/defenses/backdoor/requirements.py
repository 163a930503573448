"""Find what a defence cannot do for these people with these data: `check_data` and a run ask the same."""

from collections.abc import Sequence

from backdoor_privacy.config.schema import Defense, ImageDefense, TextDefense
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.selection import check_trigger_photos
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.targets import (
    check_at_least_one,
    check_examples,
    check_fitting,
    check_strangers,
)
from backdoor_privacy.errors import InputError
from backdoor_privacy.triggers.spellings import KINDS


def check_removal(defense: Defense, sources: Sources, removed: Sequence[Person], *, tell: bool = True) -> None:
    """See that the defence can remove these people, before anything is computed.

    Args:
        defense: of the encoders.
        sources: of the data.
        removed: the people.
        tell: whether an error may name them.

    Raises:
        InputError: on what stops a fit.
    """
    if defense.image is not None:
        check_trigger_photos(removed, tell=tell)  # first: with names alone no other part helps
    sources.check(defense.needs())
    check_number(defense, sources, len(removed))


def check_number(defense: Defense, sources: Sources, num_people: int) -> None:
    """See that the defence can remove so many people, whoever they are.

    Raises:
        InputError: on what stops a fit of so many.
    """
    if defense.text is not None:
        _check_text(defense.text, num_people)
    if defense.image is not None:
        _check_image(defense.image, sources.strangers, num_people)


def _check_text(settings: TextDefense, num_people: int) -> None:
    target, num_names = settings.target.value, num_people + settings.num_decoys
    if target == "pseudonym":
        check_at_least_one("defense.text.pseudonym_choice", settings.pseudonym_choice)
    if target == "fitting":
        check_fitting(settings.fitting_phrases, settings.num_other_names)
    if target == "composed":
        check_examples(settings.num_other_names, num_names)
    check_spellings(settings)


def check_spellings(settings: TextDefense) -> None:
    """See that names are spelt in ways that a defence may train on.

    Raises:
        InputError: naming the first way that is none.
    """
    trainable = [kind for kind, each in KINDS.items() if not each.held_out]
    unknown = [kind for kind in settings.spellings if kind not in trainable]
    if settings.spellings_share and (unknown or not settings.spellings):
        raise InputError(
            f"defense.text.spellings: expected one or more of {', '.join(trainable)}, got "
            f"{unknown[0] if unknown else 'none'}; set spellings_share to 0 for none"
        )


def _check_image(settings: ImageDefense, strangers: People | None, num_people: int) -> None:
    if settings.target.value in ("shared", "blended", "disguised"):
        check_at_least_one("defense.image.group_size", settings.group_size)
    if strangers is not None:
        check_strangers(
            strangers.with_photos,
            num_people,
            settings.target.value,
            group_size=settings.group_size,
            num_decoys=settings.num_decoys,
        )
