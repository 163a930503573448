"""Find what is wrong with the people, photos and captions of a run: the rules behind `check_data`."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from backdoor_privacy.data.captions import name_matcher
from backdoor_privacy.data.face_crops import HINTS, all_left_out
from backdoor_privacy.data.inspection import Decoded, odd_names, outside, shared_photos
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.photos import told_left_out, told_unreadable, too_many
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.errors import some


class Problem(NamedTuple):
    """A problem of a run, or a remark on its data."""

    text: str
    stops: bool = False  # whether the run could not do its work


class Photos(NamedTuple):
    """Photos of another source than people, all of them decoded."""

    decoded: Mapping[Path, Decoded | None]  # in the order of the source; `None` if a photo does not decode
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
    """The data of a run, with its photos decoded."""

    sources: Sources
    decoded: Mapping[Path, Decoded]  # the photos of people and strangers that decode
    others: Mapping[str, Photos] = field(default_factory=dict)  # by the key of their source

    @property
    def everybody(self) -> tuple[Person, ...]:
        """Everybody who is attacked."""
        return self.sources.people.everybody

    @property
    def strangers(self) -> tuple[Person, ...]:
        """The strangers, where the run needs some."""
        return self.sources.strangers.everybody if self.sources.strangers else ()

    @property
    def collections(self) -> dict[str, People]:
        """The people of each source, by its key."""
        strangers = self.sources.strangers
        return {"people": self.sources.people} | ({"strangers": strangers} if strangers and self.strangers else {})

    @property
    def groups(self) -> dict[str, tuple[Person, ...]]:
        """Everybody of each source, by its key."""
        return {key: people.everybody for key, people in self.collections.items()}


def remarks_on(data: Data) -> Iterator[Problem]:
    """Yield remarks on the data that stop no run, whoever is removed."""
    for rule in (_remarks, _left_out, _faces_left_out, _changed, _duplicates, _names):
        yield from rule(data)


def _remarks(data: Data) -> Iterator[Problem]:
    """Yield rows of tables and samples of shards that a run does not use."""
    for people in (data.sources.people, data.sources.strangers):
        yield from map(Problem, people.remarks if people else ())


def _left_out(data: Data) -> Iterator[Problem]:
    """Yield files that are no photos of a format that is read, and people without any other."""
    for key, people in data.collections.items():
        total: Counter[str] = sum(map(Counter, people.left_out.values()), Counter())
        yield from _files_left_out(key, total)
        known = set(people.names)
        lost = [
            f"{name or 'no name'} ({told_left_out(files) or 'no file'})"
            for name, files in people.left_out.items()
            if name not in known
        ]
        if lost:
            yield Problem(f"{key}.folder: people without a photo of a format that is read: {some(lost)}; left out")
    for key, photos in data.others.items():
        yield from _files_left_out(key, photos.left_out)


def _files_left_out(key: str, left_out: Mapping[str, int]) -> Iterator[Problem]:
    if left_out:
        yield Problem(
            f"{key}.folder: files left out, as they are no photos of a format that is read: {told_left_out(left_out)}"
        )


def _faces_left_out(data: Data) -> Iterator[Problem]:
    """Yield photos in which no face was found, or none is clearly the person's."""
    for key, people in data.collections.items():
        num_photos = sum(len(person.photos) for person in people.faces)
        for reason, files in all_left_out(people.faces).items():
            yield Problem(
                f"{key}.faces: {len(files)} of {num_photos} photos are left out ({reason}): {some(files)}; "
                f"{HINTS[reason]}"
            )
        if faceless := [person.name for person in people.faces if not person.crops]:
            yield Problem(f"{key}.faces: people of whom no face was found, and who are left out: {some(faceless)}")
        if doubtful := [file for person in people.faces for file in person.doubtful]:
            yield Problem(
                f"{key}.faces: {len(doubtful)} chosen faces are unlike the others of the person: {some(doubtful)}; "
                "look at the contact sheet, and delete the photo or correct the table if somebody else is in it"
            )


def _changed(data: Data) -> Iterator[Problem]:
    """Yield how many photos are turned or scaled when they are read."""
    decoded = {
        key: [data.decoded.get(path) for person in people for path in person.photos]
        for key, people in data.groups.items()
    } | {key: list(others.decoded.values()) for key, others in data.others.items()}
    for key, photos in decoded.items():
        num_turned = sum(photo is not None and photo.is_turned for photo in photos)
        num_scaled = sum(photo is not None and photo.is_scaled for photo in photos)
        if num_turned:
            yield Problem(
                f"{key}.folder: {num_turned} of {len(photos)} photos are turned upright, as their EXIF orientation "
                "says; face boxes are those of the upright photo"
            )
        if num_scaled:
            yield Problem(
                f"{key}.folder: {num_scaled} of {len(photos)} photos hold 16 bits or floats, scaled to 8 bits"
            )


def _duplicates(data: Data) -> Iterator[Problem]:
    kinds = {
        "of two people, so that a defence may train on a photo that attacks the other": shared_photos(data.everybody),
        "of people and strangers, so that a photo is to be removed and preserved": shared_photos(
            data.everybody, data.strangers
        ),
    }
    for kind, pairs in kinds.items():
        if pairs:
            names = (f"{name} and {other} ({count})" for (name, other), count in pairs.most_common())
            yield Problem(f"people.folder: photos {kind}: {some(names)}; delete them where they are wrong")


def _names(data: Data) -> Iterator[Problem]:
    for kind, names in odd_names(data.sources.people.names).items():
        if names:
            yield Problem(f"people.folder: names {kind}: {some(names)}")


def unreadable(data: Data, read_together: Iterable[tuple[str, Sequence[Path]]]) -> Iterator[Problem]:
    """Yield photos that do not decode; more than 1 % of those that are read together stop a run.

    Args:
        data: of the run.
        read_together: photos of which the run counts those that do not decode, by the key of the source it reads.
    """
    listed = {key: [*chain(*(person.photos for person in people))] for key, people in data.groups.items()}
    broken = {key: [path for path in photos if path not in data.decoded] for key, photos in listed.items()}
    for key, others in data.others.items():
        listed[key], broken[key] = others.files, others.broken
    lost = {*chain(*broken.values())}
    stopping = {key for key, together in read_together if too_many(len(lost & {*together}), len({*together}))}
    for key, photos in broken.items():
        if photos:
            stops = key in stopping
            yield Problem(told_unreadable(photos, len(listed[key]), f"{key}.folder", stops=stops), stops)


def too_few_captions(captions: Sequence[str], names: Sequence[str], least: int) -> Iterator[Problem]:
    """Yield a problem if fewer different captions than needed can carry a name and hold none of these names."""
    holds_name = name_matcher(names)
    hosts = set[str]()
    for caption in captions:
        if " " in caption and not holds_name(caption):
            hosts.add(caption)
        if len(hosts) >= least:
            return
    yield Problem(
        f"captions: expected {least} different ones or more of two words or more without a name to remove, to learn "
        f"from and to measure with, got {len(hosts)}; add captions",
        stops=True,
    )


def too_few_photos(people: Sequence[Person], num_spare: int, *, tell: bool = True) -> Iterator[Problem]:
    """Yield a problem if people have a single photo, which cannot be both trained on and attacked.

    Args:
        people: those who may be removed.
        num_spare: how many of them the run can do without.
        tell: whether to name them; if people were drawn, that would tell who they are.
    """
    names = [person.name for person in people if person.photos and not person.trigger_photos]
    if names:
        listed = f": {some(names)}" if tell else ""
        yield Problem(
            "people.folder: expected two different photos or more of each person to remove, one to train on and one to "
            f"attack, got {len(names)} of {len(people)} people with fewer{listed}; add photos, or set "
            "people.min_photos=2",
            stops=len(names) > num_spare,
        )


def untrainable(
    data: Data, key: str, trained: Sequence[tuple[Person, Sequence[Path]]], *, cuts_faces: bool, stops: bool
) -> Iterator[Problem]:
    """Yield photos that cannot be trained on: their face box lies outside of them, or none of a person decodes.

    Args:
        data: of the run.
        key: of the people's source.
        trained: people, and the photos of each to train on.
        cuts_faces: whether faces are cut out by their boxes.
        stops: whether it is certain that the run trains on these photos.
    """
    photos, people = {*chain(*(paths for _, paths in trained))}, data.collections.get(key)
    outer = [path for path in outside(people.boxes if people else {}, data.decoded) if path in photos]
    if outer and cuts_faces:
        yield Problem(
            f"{key}.boxes: expected face boxes within the photos, got {len(outer)} outside: {some(outer)}; correct "
            "the table of boxes",
            stops,
        )
    lost = [person.name for person, paths in trained if paths and not any(path in data.decoded for path in paths)]
    if lost:
        yield Problem(
            f"{key}.folder: expected photos that decode, got none to train on of {some(lost)}; replace them", stops
        )
