"""What is wrong with the data of a run, and what of it stops the run: the rules behind `check_data`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.config.schema import Config
from backdoor_privacy.data.captions import name_matcher
from backdoor_privacy.data.face_crops import HINTS, all_left_out
from backdoor_privacy.data.inspection import Decoded, num_different, odd_names, outside, shared_photos
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photos import told_left_out, told_unreadable, too_many
from backdoor_privacy.data.selection import check_trigger_photos, named_people, select_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.base import Defense
from backdoor_privacy.defenses.checks import needed_parts
from backdoor_privacy.errors import InputError, some


class Finding(NamedTuple):
    """Something to know before a run."""

    text: str
    stops: bool = False  # whether the run could not do its work


class Photos(NamedTuple):
    """Photos of another source than people, all of them decoded."""

    decoded: Mapping[Path, Decoded | None]  # in the order of the source; nothing of one that does not decode
    left_out: Mapping[str, int] = MappingProxyType({})  # the number of other files, by suffix

    @property
    def files(self) -> list[Path]:
        """All photos."""
        return list(self.decoded)

    @property
    def broken(self) -> list[Path]:
        """Those that do not decode."""
        return [path for path, size in self.decoded.items() if size is None]


@dataclass(frozen=True)
class Data:
    """What a run reads, already looked at."""

    settings: Config
    defenses: Mapping[str, Defense]
    sources: Sources
    attack: Idia
    decoded: Mapping[Path, Decoded]  # the photos of people and strangers that decode
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
    def groups(self) -> dict[str, tuple[Person, ...]]:
        """People of each source, by its key."""
        return {"people": self.everybody} | ({"strangers": self.strangers} if self.strangers else {})

    @property
    def needs_photos(self) -> bool:
        """Whether a defence trains on photos of the people to remove."""
        return any(defense.needs_photos for defense in self.defenses.values())

    @property
    def is_drawn(self) -> bool:
        """Whether people are drawn among those that IDIA infers, so that nobody knows yet whom."""
        choice = self.settings.trigger_set
        if not self.sources.people.with_photos.everybody:
            return False  # all names alone are removed
        return choice.require_inferred and named_people(choice.people, choice.file) is None

    def try_select(self) -> tuple[Person, ...]:
        """Who is removed, or nobody where that cannot be told, of which a finding tells."""
        try:
            return self.select()
        except InputError:
            return ()

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
    rules = [_remarks, _candidates, _parts, _unreadable, _left_out, _faces_left_out]
    rules += [_changed, _duplicates, _few_attack_photos, _names]
    found = []
    try:
        data.select()
        rules += [_captions, _lone, _removal, _faces]
    except InputError as error:
        found.append(Finding(str(error), stops=True))
    return found + [finding for rule in rules for finding in rule(data)]


def _remarks(data: Data) -> Iterator[Finding]:
    """What tables and shards hold that a run does not use."""
    for people in (data.sources.people, data.sources.strangers):
        yield from map(Finding, people.remarks if people else ())


def _candidates(data: Data) -> Iterator[Finding]:
    try:
        data.attack.candidates(data.sources.people.with_photos.names)
    except InputError as error:
        yield Finding(str(error), stops=True)


def _parts(data: Data) -> Iterator[Finding]:
    found = set()
    for part in sorted(needed_parts(data.defenses)):
        try:
            data.sources.check([part])
        except InputError as error:
            found.add(str(error))
    yield from (Finding(text, stops=True) for text in sorted(found))


def _captions(data: Data) -> Iterator[Finding]:
    least = max(defense.num_host_captions for defense in data.defenses.values())
    if data.sources.captions is None or not least:
        return
    holds_name = name_matcher([] if data.is_drawn else [person.name for person in data.removable])
    able = {caption for caption in data.sources.captions if " " in caption and not holds_name(caption)}
    if len(able) < least:
        yield Finding(
            "captions: expected two different ones or more of two words or more without a name to remove, to learn "
            f"from and to measure with, got {len(able)}; add captions",
            stops=True,
        )


def _lone(data: Data) -> Iterator[Finding]:
    lone = [person.name for person in data.removable if person.photos and num_different(person) < 2]
    if lone and data.needs_photos:
        yield Finding(
            "people.folder: expected two different photos or more of each person to remove, one to train on and one to "
            f"attack, got {len(lone)} of {len(data.removable)} people with fewer: {some(lone)}; add photos, or set "
            "people.min_photos=2",
            stops=not data.is_drawn or len(data.everybody) - len(lone) < len(data.select()),
        )


def _few_attack_photos(data: Data) -> Iterator[Finding]:
    counts = [len(person.attack_photos) for person in data.everybody if person.photos]
    few = [count for count in counts if count < data.attack.num_photos]
    if few:
        yield Finding(
            f"attack.num_photos: {len(few)} of {len(counts)} people have fewer than {data.attack.num_photos} photos to "
            f"attack with, half of their photos: {min(few)} or more"
        )


def _removal(data: Data) -> Iterator[Finding]:
    """What stops a run of these people before it is begun, but for missing parts and lone photos, told above."""
    for defense in data.defenses.values():
        for problem in defense.problems(None, data.sources, len(data.select()), data.settings.trainer):
            yield Finding(problem, stops=True)
    if data.needs_photos and not any(person.photos for person in data.removable):
        try:
            check_trigger_photos(data.removable)
        except InputError as error:
            yield Finding(str(error), stops=True)


def _faces(data: Data) -> Iterator[Finding]:
    """What ends an image defence amid its steps."""
    if not data.needs_photos:
        return
    shows_strangers = any(defense.shows_strangers for defense in data.defenses.values())
    own = {person.name: person.trigger_photos for person in data.removable}
    foreign = {person.name: person.photos for person in data.strangers}
    for key, photos, is_sure in (("people", own, not data.is_drawn), ("strangers", foreign, shows_strangers)):
        people = getattr(data.sources, key)
        outer = [
            path for path in outside(people.boxes if people else {}, data.decoded) if path in {*chain(*photos.values())}
        ]
        if outer and any(defense.cuts_faces for defense in data.defenses.values()):
            yield Finding(
                f"{key}.boxes: expected face boxes within the photos, got {len(outer)} outside: {some(outer)}; correct "
                "the table of boxes",
                is_sure,
            )
        lost = [name for name, paths in photos.items() if paths and not any(path in data.decoded for path in paths)]
        if lost:
            yield Finding(
                f"{key}.folder: expected photos that decode, got none to train on of {some(lost)}; replace them",
                is_sure,
            )


def _unreadable(data: Data) -> Iterator[Finding]:
    """Photos that do not decode; more than 1 % of those that are read together stop a run."""
    listed = {key: [*chain(*(person.photos for person in people))] for key, people in data.groups.items()}
    broken = {key: [path for path in photos if path not in data.decoded] for key, photos in listed.items()}
    for key, others in data.others.items():
        listed[key], broken[key] = others.files, others.broken
    lost = {*chain(*broken.values())}
    stopping = {
        key for key, together in _read_together(data) if too_many(len(lost.intersection(together)), len({*together}))
    }
    for key, photos in broken.items():
        if photos:
            stops = key in stopping
            yield Finding(told_unreadable(photos, len(listed[key]), f"{key}.folder", stops=stops), stops)


def _read_together(data: Data) -> Iterator[tuple[str, Sequence[Path]]]:
    """Photos that are counted together when the run reads some, as far as is known before it, in its order."""
    seen: list[Path] = []  # an encoder counts what it has seen before, too
    for key, photos in _embedded(data):
        seen.extend(photos)
        yield key, list(seen)
    images = data.others.get("images")
    if not data.needs_photos:
        return
    if images is not None:
        yield "images", images.files
    trained = [path for person in _known_removed(data) for path in person.trigger_photos]
    if too_many(sum(path not in data.decoded for path in trained), len(trained)):
        yield "people", [*trained, *(path for person in data.everybody for path in person.trigger_photos)]


def _known_removed(data: Data) -> tuple[Person, ...]:
    """Return the removed people, as far as they are known."""
    return () if data.is_drawn else data.try_select()


def _embedded(data: Data) -> Iterator[tuple[str, Sequence[Path]]]:
    """Photos that the original's image encoder sees at a time, in the order of the run."""
    yield "people", [path for person in data.everybody for path in person.attack_photos[: data.attack.num_photos]]
    yield from ((key, others.files) for key, others in data.others.items() if key != "images")
    images = data.others.get("images", Photos({}))
    for defense in data.defenses.values():
        yield from defense.photos_read(
            _known_removed(data),
            data.strangers,
            images.files,
            lambda path: images.decoded[path] is not None,
            data.settings.seed,
        )


def _left_out(data: Data) -> Iterator[Finding]:
    """Files that are no photos of a format that is read, and people who have nothing else."""
    for key in data.groups:
        people = getattr(data.sources, key)
        total: Counter[str] = sum(map(Counter, people.left_out.values()), Counter())
        yield from _files_left_out(key, total)
        known = set(people.names)
        lost = [
            f"{name or 'no name'} ({told_left_out(files) or 'no file'})"
            for name, files in people.left_out.items()
            if name not in known
        ]
        if lost:
            yield Finding(f"{key}.folder: people without a photo of a format that is read: {some(lost)}; left out")
    for key, photos in data.others.items():
        yield from _files_left_out(key, photos.left_out)


def _faces_left_out(data: Data) -> Iterator[Finding]:
    """Photos in which nobody's face was found, or not clearly theirs."""
    for key in data.groups:
        found = getattr(data.sources, key).faces
        for reason, files in all_left_out(found).items():
            yield Finding(
                f"{key}.faces: {len(files)} of {sum(len(one.photos) for one in found)} photos are left out ({reason}): "
                f"{some(files)}; {HINTS[reason]}"
            )
        if faceless := [one.name for one in found if not one.crops]:
            yield Finding(f"{key}.faces: people of whom no face was found, and who are left out: {some(faceless)}")
        if doubtful := [file for one in found for file in one.doubtful]:
            yield Finding(
                f"{key}.faces: {len(doubtful)} chosen faces are unlike the others of the person: {some(doubtful)}; "
                "look at the contact sheet, and delete the photo or correct the table if somebody else is in it"
            )


def _changed(data: Data) -> Iterator[Finding]:
    """Photos that are read otherwise than they are stored."""
    decoded = {
        key: [data.decoded.get(path) for person in people for path in person.photos]
        for key, people in data.groups.items()
    } | {key: list(others.decoded.values()) for key, others in data.others.items()}
    for key, photos in decoded.items():
        num_turned = sum(photo is not None and photo.is_turned for photo in photos)
        num_scaled = sum(photo is not None and photo.is_scaled for photo in photos)
        if num_turned:
            yield Finding(
                f"{key}.folder: {num_turned} of {len(photos)} photos are turned upright, as their EXIF orientation "
                "says; face boxes are those of the upright photo"
            )
        if num_scaled:
            yield Finding(
                f"{key}.folder: {num_scaled} of {len(photos)} photos hold 16 bits or floats, scaled to 8 bits"
            )


def _files_left_out(key: str, left_out: Mapping[str, int]) -> Iterator[Finding]:
    if left_out:
        yield Finding(
            f"{key}.folder: files left out, as they are no photos of a format that is read: {told_left_out(left_out)}"
        )


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
