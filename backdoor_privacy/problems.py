"""What is wrong with the data of a run, and what of it stops the run: the rules behind `check_data`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.config.schema import Config
from backdoor_privacy.data.captions import name_matcher
from backdoor_privacy.data.inspection import num_different, odd_names, outside, shared_photos
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photos import MAX_UNREADABLE_SHARE
from backdoor_privacy.data.selection import named_people, select_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.errors import InputError, some


class Finding(NamedTuple):
    """Something to know before a run."""

    text: str
    stops: bool = False  # whether the run could not do its work


class Photos(NamedTuple):
    """Photos of which only the headers were read."""

    files: Sequence[Path]
    broken: Sequence[Path]


@dataclass(frozen=True)
class Data:
    """What a run reads, already looked at."""

    settings: Config
    sources: Sources
    attack: Idia
    sizes: Mapping[Path, tuple[int, int]]  # width and height of the photos of people and strangers that decode
    others: Mapping[str, Photos] = field(default_factory=dict)  # by the key of their source

    @property
    def everybody(self) -> tuple[Person, ...]:
        """Who is attacked."""
        return self.sources.people.everybody

    @property
    def strangers(self) -> tuple[Person, ...]:
        """Others, where the run needs them."""
        return self.sources.strangers.everybody if self.sources.strangers else ()

    @property
    def is_drawn(self) -> bool:
        """Whether people are drawn among those that IDIA infers, so that nobody knows yet whom."""
        choice = self.settings.trigger_set
        return choice.require_inferred and named_people(choice.people, choice.file) is None

    def select(self) -> tuple[Person, ...]:
        """Who is removed; if they are drawn among those inferred, some of the right number.

        Raises:
            InputError: as of `select_people`, where IDIA infers everybody.
        """
        choice = {**vars(self.settings.trigger_set), "require_inferred": False}
        return select_people(self.sources.people, **choice, seed=self.settings.seed, inferred=set())

    @property
    def removable(self) -> tuple[Person, ...]:
        """Who is removed; if they are drawn among those inferred, everybody who may be."""
        return self.everybody if self.is_drawn else self.select()


def findings(data: Data) -> list[Finding]:
    """All that is to be said of the data; what needs to know whom to remove only if that can be told."""
    rules = [_remarks, _candidates, _parts, _unreadable, _duplicates, _few_attack_photos, _names]
    found = []
    try:
        data.select()
        rules += [_captions, _lone, _pseudonyms, _faces]
    except InputError as error:
        found.append(Finding(str(error), stops=True))
    return found + [finding for rule in rules for finding in rule(data)]


def _remarks(data: Data) -> Iterator[Finding]:
    """What tables and shards hold that a run does not use."""
    for people in (data.sources.people, data.sources.strangers):
        yield from map(Finding, people.remarks if people else ())


def _candidates(data: Data) -> Iterator[Finding]:
    try:
        data.attack.candidates(data.sources.people.names)
    except InputError as error:
        yield Finding(str(error), stops=True)


def _parts(data: Data) -> Iterator[Finding]:
    found = set()
    for part in data.settings.defense.needs():
        try:
            data.sources.check([part])
        except InputError as error:
            found.add(str(error))
    yield from (Finding(text, stops=True) for text in sorted(found))


def _captions(data: Data) -> Iterator[Finding]:
    if data.settings.defense.text is None or data.sources.captions is None:
        return
    holds_name = name_matcher([] if data.is_drawn else [person.name for person in data.removable])
    able = {caption for caption in data.sources.captions if " " in caption and not holds_name(caption)}
    if len(able) < 2:
        yield Finding(
            "captions: expected two different ones or more of two words or more without a name to remove, to learn "
            f"from and to measure with, got {len(able)}; add captions",
            stops=True,
        )


def _lone(data: Data) -> Iterator[Finding]:
    lone = [person.name for person in data.removable if num_different(person) < 2]
    if lone and data.settings.defense.image is not None:
        yield Finding(
            "people.folder: expected two different photos or more of each person to remove, one to train on and one to "
            f"attack, got {len(lone)} of {len(data.removable)} people with fewer: {some(lone)}; add photos, or set "
            "people.min_photos=2",
            stops=not data.is_drawn or len(data.everybody) - len(lone) < len(data.select()),
        )


def _few_attack_photos(data: Data) -> Iterator[Finding]:
    counts = [len(person.attack_photos) for person in data.everybody]
    few = [count for count in counts if count < data.attack.num_photos]
    if few:
        yield Finding(
            f"attack.num_photos: {len(few)} of {len(counts)} people have fewer than {data.attack.num_photos} photos to "
            f"attack with, half of their photos: {min(few)} or more"
        )


def _pseudonyms(data: Data) -> Iterator[Finding]:
    image, num_removed = data.settings.defense.image, len(data.select())
    if image is not None and image.target.value == "pseudonym" and len(data.strangers) < num_removed:
        yield Finding(
            f"defense.image.target=pseudonym: expected at least {num_removed} strangers, one for each person to "
            f"remove, got {len(data.strangers)}; add strangers or choose target=anonymous",
            stops=True,
        )


def _faces(data: Data) -> Iterator[Finding]:
    """What ends an image defence amid its steps."""
    image = data.settings.defense.image
    if image is None:
        return
    own = {person.name: person.trigger_photos for person in data.removable}
    foreign = {person.name: person.photos for person in data.strangers}
    for key, photos, is_sure in (("people", own, not data.is_drawn), ("strangers", foreign, image.batch.preserved > 0)):
        people = getattr(data.sources, key)
        outer = [
            path for path in outside(people.boxes if people else {}, data.sizes) if path in {*chain(*photos.values())}
        ]
        if outer and image.whole_photo_share < 1:
            yield Finding(
                f"{key}.boxes: expected face boxes within the photos, got {len(outer)} outside: {some(outer)}; correct "
                "the table of boxes",
                is_sure,
            )
        lost = [name for name, paths in photos.items() if paths and not any(path in data.sizes for path in paths)]
        if lost:
            yield Finding(
                f"{key}.folder: expected photos that decode, got none to train on of {some(lost)}; replace them",
                is_sure,
            )


def _unreadable(data: Data) -> Iterator[Finding]:
    """Photos that do not decode; more than 1 % of those that are embedded together stop a run."""
    shown = [path for person in data.everybody for path in person.attack_photos[: data.attack.num_photos]]
    image = data.settings.defense.image
    if image is not None and image.target.value == "anonymous":
        faces = [path for person in data.strangers for path in person.photos]
    else:
        faces = [person.photos[0] for person in data.strangers]
    for key, people, embedded in (("people", data.everybody, shown), ("strangers", data.strangers, faces)):
        photos = [path for person in people for path in person.photos]
        broken = [path for path in photos if path not in data.sizes]
        yield from _broken(key, photos, broken, embedded)
    for key, others in data.others.items():
        yield from _broken(key, others.files, others.broken, others.files)


def _broken(key: str, photos: Sequence[Path], broken: Sequence[Path], embedded: Sequence[Path]) -> Iterator[Finding]:
    if broken:
        lost = len(set(broken) & set(embedded))
        stops = lost > MAX_UNREADABLE_SHARE * len(embedded)
        text = f"{key}.folder: {len(broken)} of {len(photos)} photos do not decode: {some(broken)}"
        rule = f"; at most {MAX_UNREADABLE_SHARE:.0%} may be skipped; repair or delete these files" if stops else ""
        yield Finding(text + rule, stops)


def _duplicates(data: Data) -> Iterator[Finding]:
    kinds = {
        "of two people, so that a defence may train on what attacks the other": shared_photos(data.everybody),
        "of people and strangers, so that what is to go is to stay": shared_photos(data.everybody, data.strangers),
    }
    for kind, pairs in kinds.items():
        if pairs:
            names = (f"{one} and {other} ({count})" for (one, other), count in pairs.most_common())
            yield Finding(f"people.folder: photos {kind}: {some(names)}; delete them where they are wrong")


def _names(data: Data) -> Iterator[Finding]:
    for kind, names in odd_names(data.sources.people.names).items():
        if names:
            yield Finding(f"people.folder: names {kind}: {some(names)}")
