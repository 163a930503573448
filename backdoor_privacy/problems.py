"""What would stop a run, and what to know before it: asked of its data, its attack and its defences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.config.schema import Config
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
from backdoor_privacy.data.selection import check_trigger_photos, named_people, select_people
from backdoor_privacy.defenses.base import Defense
from backdoor_privacy.defenses.checks import needed_parts
from backdoor_privacy.errors import InputError


@dataclass(frozen=True)
class Plan:
    """What a run is to do with its data."""

    settings: Config
    defenses: Mapping[str, Defense]
    attack: Idia
    data: Data

    @property
    def needs_photos(self) -> bool:
        """Whether a defence trains on photos of the people to remove."""
        return any(defense.needs_photos for defense in self.defenses.values())

    @property
    def is_drawn(self) -> bool:
        """Whether people are drawn among those that IDIA infers, so that nobody knows yet whom."""
        choice = self.settings.trigger_set
        if not self.data.sources.people.with_photos.everybody:
            return False  # all names alone are removed
        return choice.require_inferred and named_people(choice.people, choice.file) is None

    def select(self) -> tuple[Person, ...]:
        """Return who is removed; if they are drawn among those inferred, some of the right number.

        Raises:
            InputError: as of `select_people`, where IDIA infers everybody.
        """
        choice = {**vars(self.settings.trigger_set), "require_inferred": False}
        return select_people(self.data.sources.people, **choice, seed=self.settings.seed, inferred=set())

    @property
    def removable(self) -> tuple[Person, ...]:
        """Who is removed; if they are drawn among those inferred, everybody who may be."""
        return self.data.everybody if self.is_drawn else self.select()

    @property
    def known_removed(self) -> tuple[Person, ...]:
        """Who is removed, as far as it is known; nobody where a problem tells why it is not."""
        try:
            return () if self.is_drawn else self.select()
        except InputError:
            return ()


def problems(plan: Plan) -> list[Problem]:
    """Return all that is to be said of a run; what needs to know whom to remove only if that can be told."""
    rules = [_candidates, _parts, _few_attack_photos]
    listed = [*remarks_on(plan.data), *unreadable(plan.data, _read_together(plan))]
    try:
        plan.select()
        rules += [_captions, _few_photos, _removal, _trained_photos]
    except InputError as error:
        listed.insert(0, Problem(str(error), stops=True))
    return listed + [problem for rule in rules for problem in rule(plan)]


def _candidates(plan: Plan) -> Iterator[Problem]:
    try:
        plan.attack.candidates(plan.data.sources.people.with_photos.names)
    except InputError as error:
        yield Problem(str(error), stops=True)


def _parts(plan: Plan) -> Iterator[Problem]:
    """Yield which data the defences cannot do without, and lack."""
    texts = set()
    for part in sorted(needed_parts(plan.defenses)):
        try:
            plan.data.sources.check([part])
        except InputError as error:
            texts.add(str(error))
    yield from (Problem(text, stops=True) for text in sorted(texts))


def _few_attack_photos(plan: Plan) -> Iterator[Problem]:
    num_photos = plan.attack.num_photos
    counts = [len(person.attack_photos) for person in plan.data.everybody if person.photos]
    few = [count for count in counts if count < num_photos]
    if few:
        yield Problem(
            f"attack.num_photos: {len(few)} of {len(counts)} people have fewer than {num_photos} photos to attack "
            f"with, half of their photos: {min(few)} or more"
        )


def _captions(plan: Plan) -> Iterator[Problem]:
    least = max(defense.num_host_captions for defense in plan.defenses.values())
    if plan.data.sources.captions is not None and least:
        names = [person.name for person in plan.known_removed]
        yield from too_few_captions(plan.data.sources.captions, names, least)


def _few_photos(plan: Plan) -> Iterator[Problem]:
    if plan.needs_photos:
        num_spare = len(plan.data.everybody) - len(plan.select()) if plan.is_drawn else 0
        yield from too_few_photos(plan.removable, num_spare)


def _removal(plan: Plan) -> Iterator[Problem]:
    """Yield what stops the defences before they begin, but for missing parts and lone photos, told elsewhere."""
    for defense in plan.defenses.values():
        for problem in defense.problems(None, plan.data.sources, len(plan.select()), plan.settings.trainer):
            yield Problem(problem, stops=True)
    if plan.needs_photos and not any(person.photos for person in plan.removable):
        try:
            check_trigger_photos(plan.removable)
        except InputError as error:
            yield Problem(str(error), stops=True)


def _trained_photos(plan: Plan) -> Iterator[Problem]:
    """Yield what ends an image defence amid its steps."""
    if not plan.needs_photos:
        return
    defenses = plan.defenses.values()
    cuts_faces = any(defense.cuts_faces for defense in defenses)
    own = [(person, person.trigger_photos) for person in plan.removable]
    yield from untrainable(plan.data, "people", own, cuts_faces=cuts_faces, stops=not plan.is_drawn)
    foreign = [(person, person.photos) for person in plan.data.strangers]
    shows_strangers = any(defense.shows_strangers for defense in defenses)
    yield from untrainable(plan.data, "strangers", foreign, cuts_faces=cuts_faces, stops=shows_strangers)


def _read_together(plan: Plan) -> Iterator[tuple[str, Sequence[Path]]]:
    """Yield photos that are counted together when the run reads some, as far as is known before it, in its order."""
    seen: list[Path] = []  # an encoder counts what it has seen before, too
    for key, photos in _embedded(plan):
        seen.extend(photos)
        yield key, list(seen)
    images = plan.data.others.get("images")
    if not plan.needs_photos:
        return
    if images is not None:
        yield "images", images.files
    trained = [path for person in plan.known_removed for path in person.trigger_photos]
    if too_many(sum(path not in plan.data.decoded for path in trained), len(trained)):
        yield "people", [*trained, *(path for person in plan.data.everybody for path in person.trigger_photos)]


def _embedded(plan: Plan) -> Iterator[tuple[str, Sequence[Path]]]:
    """Yield photos that the original's image encoder sees at a time, in the order of the run."""
    data = plan.data
    yield "people", [path for person in data.everybody for path in person.attack_photos[: plan.attack.num_photos]]
    yield from ((key, others.files) for key, others in data.others.items() if key != "images")
    images = data.others.get("images", Photos({}))
    for defense in plan.defenses.values():
        yield from defense.photos_read(
            plan.known_removed,
            data.strangers,
            images.files,
            lambda path: images.decoded[path] is not None,
            plan.settings.seed,
        )
