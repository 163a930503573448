"""Find what would stop a run in its data, attacks and defences; `check_data` and the run ask the same."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from backdoor_privacy.attacks.base import Attack
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import Trainer, TriggerSet
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photos import too_many
from backdoor_privacy.data.problems import (
    Data,
    Photos,
    Problem,
    remarks_on,
    too_few_captions,
    too_few_photos,
    unreadable,
    untrainable,
)
from backdoor_privacy.data.selection import named_people, select_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.base import NO_DEFENSE, Defense, PhotosAtHand, needed_parts
from backdoor_privacy.errors import InputError


@dataclass(frozen=True)
class Plan:
    """The settings and the data of a run, before it starts."""

    sources: Sources
    attack: Idia
    defenses: Mapping[str, Defense]
    choice: TriggerSet
    trainer: Trainer
    seed: int
    attacks: Mapping[str, Attack] = field(default_factory=dict)  # others than IDIA, which follow

    @property
    def everybody(self) -> tuple[Person, ...]:
        """Everybody who is attacked."""
        return self.sources.people.everybody

    @property
    def models(self) -> list[str]:
        """Names of the CLIPs that are audited: the original, each encoder defended alone, and all of them."""
        encoders = dict.fromkeys(encoder for defense in self.defenses.values() for encoder in defense.encoders)
        return ["before", *encoders, *(["both"] if len(encoders) > 1 else [])]

    @property
    def needs_photos(self) -> bool:
        """Whether a defence trains on photos of the people to remove."""
        return any(defense.needs_photos for defense in self.defenses.values())

    @property
    def named(self) -> tuple[Person, ...] | None:
        """The people whom the user named; `None` where they are drawn.

        Raises:
            InputError: see `named_people`.
        """
        return named_people(self.sources.people, self.choice)

    @property
    def is_drawn(self) -> bool:
        """Whether people are drawn among those that IDIA infers, so that it is not known yet who is removed."""
        if not self.sources.people.with_photos.everybody:
            return False  # all names alone are removed
        return self.choice.require_inferred and self.named is None

    def select(self) -> tuple[Person, ...]:
        """Return who is removed; if they are drawn among those inferred, as many stand-ins.

        Raises:
            InputError: see `select_people`, where IDIA infers everybody.
        """
        return select_people(self.sources.people, replace(self.choice, require_inferred=False), seed=self.seed)

    @property
    def known(self) -> tuple[Person, ...]:
        """The people to remove; empty where they are not known yet, or the settings are wrong."""
        try:
            return () if self.is_drawn else self.select()
        except InputError:
            return ()

    @property
    def removable(self) -> tuple[Person, ...]:
        """The people to remove; if they are drawn among those inferred, everybody who may be."""
        return self.everybody if self.is_drawn else self.select()


def check_plan(plan: Plan, clip: Clip, removed: Sequence[Person] | None = None) -> None:
    """Check that a run can do its work, before it computes anything.

    Args:
        plan: of the run.
        clip: to defend.
        removed: whom to remove; `None`: as far as the plan knows.

    Raises:
        InputError: on the first problem that stops a run.
    """
    people = (plan.named or ()) if removed is None else removed
    clip.check_fits([person.name for person in people], tell=plan.named is not None)
    for problem in problems(plan, clip, removed, tell=plan.named is not None):
        if problem.stops:
            raise InputError(problem.text)


def problems(
    plan: Plan, clip: Clip | None = None, removed: Sequence[Person] | None = None, *, tell: bool = True
) -> Iterator[Problem]:
    """Yield the problems that are known before a photo is decoded.

    Args:
        plan: of the run.
        clip: to defend; `None` where it is not loaded.
        removed: whom to remove; `None`: as far as the plan knows.
        tell: whether to name people whom the user did not name.
    """
    if not plan.defenses:
        yield Problem(NO_DEFENSE, stops=True)
    try:
        chosen = plan.select() if removed is None else removed
    except InputError as error:
        yield Problem(str(error), stops=True)
    else:
        is_known = removed is not None or not plan.is_drawn
        yield from _without_trigger_photos(plan, chosen, is_known=is_known, tell=tell or not is_known)
        for defense in plan.defenses.values():
            for text in defense.problems(clip, plan.sources, len(chosen), plan.trainer):
                yield Problem(text, stops=True)
        yield from _too_few_captions(plan, chosen if is_known else ())
        yield from _attack_problems(plan, clip, chosen, is_known=is_known)
    yield from _missing_parts(plan)
    yield from plan.attack.problems(plan.sources.people.with_photos.everybody)


def _without_trigger_photos(plan: Plan, chosen: Sequence[Person], *, is_known: bool, tell: bool) -> Iterator[Problem]:
    """Yield who has no photo to train on besides those of the attacks; people without any photo need none."""
    needing = [name for name, defense in plan.defenses.items() if defense.needs_photos]
    if not needing:
        return
    people = chosen if is_known else plan.everybody
    if people and not any(person.photos for person in people):
        yield Problem(
            f"defense.{needing[0]}: expected photos of somebody to remove, got names alone; choose defense=text, "
            "or add photos",
            stops=True,
        )
    num_spare = 0 if is_known else len(people) - len(chosen)
    yield from too_few_photos(people, num_spare, tell=tell)


def _missing_parts(plan: Plan) -> Iterator[Problem]:
    texts = dict[str, None]()
    for part in sorted(needed_parts(plan.defenses)):
        try:
            plan.sources.check([part])
        except InputError as error:
            texts[str(error)] = None
    yield from (Problem(text, stops=True) for text in texts)


def _too_few_captions(plan: Plan, removed: Sequence[Person]) -> Iterator[Problem]:
    least = max((defense.num_host_captions for defense in plan.defenses.values()), default=0)
    if plan.sources.captions is not None and least:
        yield from too_few_captions(plan.sources.captions, [person.name for person in removed], least)


def _attack_problems(plan: Plan, clip: Clip | None, removed: Sequence[Person], *, is_known: bool) -> Iterator[Problem]:
    """Yield why attacks besides IDIA cannot be run: a single one stops the run, one of several is left out."""
    names = {person.name for person in removed if person.photos}
    if not names:  # without photos they measure nothing
        return
    people = plan.sources.people.with_photos
    clips = {} if clip is None else {"before": clip}
    context = AttackContext(clips, people, [name for name in people.names if name in names], plan.attack, plan.seed)
    nobody = replace(context, removed=())
    for attack in plan.attacks.values():
        general = set(attack.problems(nobody, plan.models))  # those that do not depend on who is removed
        for text in attack.problems(context, plan.models):
            yield Problem(text, stops=len(plan.attacks) == 1 and (is_known or text in general))


def all_problems(plan: Plan, data: Data) -> list[Problem]:
    """Return all problems of a run, with those that only decoded photos show."""
    found = [*problems(plan), *unreadable(data, _read_together(plan, data)), *remarks_on(data)]
    try:
        return [*found, *_unusable_photos(plan, data)]
    except InputError:  # nobody can be chosen; `problems` has said why
        return found


def _unusable_photos(plan: Plan, data: Data) -> Iterator[Problem]:
    """Yield photos that would end the training of an image defence."""
    if not plan.needs_photos:
        return
    defenses = plan.defenses.values()
    cuts_faces = any(defense.cuts_faces for defense in defenses)
    own = [(person, person.trigger_photos) for person in plan.removable]
    yield from untrainable(data, "people", own, cuts_faces=cuts_faces, stops=not plan.is_drawn)
    others = [(person, person.photos) for person in data.strangers]
    shows_strangers = any(defense.shows_strangers for defense in defenses)
    yield from untrainable(data, "strangers", others, cuts_faces=cuts_faces, stops=shows_strangers)


def _read_together(plan: Plan, data: Data) -> Iterator[tuple[str, Sequence[Path]]]:
    """Yield the photos of which a run counts those that do not decode, each time it reads some, in its order."""
    seen: list[Path] = []  # an encoder also counts what it has embedded before
    for key, photos in _embedded(plan, data):
        seen.extend(photos)
        yield key, list(seen)
    images = data.others.get("images")
    if not plan.needs_photos:
        return
    if images is not None:
        yield "images", images.files
    trained = [path for person in plan.known for path in person.trigger_photos]
    if too_many(sum(path not in data.decoded for path in trained), len(trained)):
        yield "people", [*trained, *(path for person in data.everybody for path in person.trigger_photos)]


def _embedded(plan: Plan, data: Data) -> Iterator[tuple[str, Sequence[Path]]]:
    """Yield the photos that the original image encoder embeds at a time, in the order of the run."""
    yield "people", [path for person in data.everybody for path in person.attack_photos[: plan.attack.num_photos]]
    yield from ((key, others.files) for key, others in data.others.items() if key != "images")
    images = data.others.get("images", Photos({}))
    at_hand = PhotosAtHand(
        plan.known, data.strangers, images.files, lambda path: images.decoded[path] is not None, plan.seed
    )
    for defense in plan.defenses.values():
        yield from defense.photos_read(at_hand)
