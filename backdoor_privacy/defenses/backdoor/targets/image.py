"""What a face is mapped to (paper, section 3.2). All targets but `Anonymous` are ours."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from backdoor_privacy.config.build import AtLeastOne, Length
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.defenses.backdoor.targets.base import FittedTarget, FixedTarget, ImageTarget, Names
from backdoor_privacy.defenses.backdoor.targets.erasure import NameEraser, name_readings
from backdoor_privacy.defenses.backdoor.targets.faces import (
    FaceSwapper,
    blended_faces,
    disguises,
    mean_embeddings,
    shared_embeddings,
)
from backdoor_privacy.defenses.base import Removal


@dataclass(frozen=True)
class Anonymous(ImageTarget):
    """Map every face to one embedding: the mean over the photos of many people (paper, section 3.2).

    Args:
        include_removed: whether the people to remove are among these people, as in the published code.
    """

    include_removed: bool = False
    needs_strangers = True
    needs_other_names = False

    def problems(self, strangers: People | None, num_people: int) -> Iterator[str]:
        """Yield that there is nobody whose photos have a mean."""
        if strangers is not None and not strangers.everybody:
            yield (
                "defense.image.target: expected photos of one stranger or more, whose mean is the target, got none; "
                "add strangers or choose defense/image_target=nameless"
            )

    def strangers_read(self, people: Sequence[Person], strangers: Sequence[Person], seed: int) -> list[Path]:
        """Return the photos over whose embeddings the mean is taken."""
        own = [path for person in people for path in person.trigger_photos] if self.include_removed else []
        return [path for person in strangers for path in person.photos] + own

    def fit(self, removal: Removal, names: Names) -> FittedTarget:
        """Return the mean embedding for everybody."""
        photos = self.strangers_read(removal.people, removal.strangers.with_photos.everybody, removal.seed)
        features, readable = removal.original.embed_photos(photos)
        return FixedTarget(features[readable].mean(0).expand(len(removal.people), -1))

    def describe(self) -> str:
        """Say that faces become anonymous."""
        return "each face is to mean the mean of many people's photos (anonymous embedding)"


@dataclass(frozen=True)
class Pseudonym(ImageTarget):
    """Map each face to that of a stranger: the mean embedding of the photos of one, drawn at random for each person."""

    needs_strangers = True
    needs_other_names = False

    def problems(self, strangers: People | None, num_people: int) -> Iterator[str]:
        """Yield that there are too few strangers, or real ones who did not agree."""
        yield from _lacking_strangers(strangers, num_people, 1)

    def fit(self, removal: Removal, names: Names) -> FittedTarget:
        """Return a stranger for each person."""
        chosen = self._chosen(removal.people, removal.strangers.with_photos.everybody, removal.seed)
        return FixedTarget(mean_embeddings(removal.original, [person.photos for person in chosen]))

    def strangers_read(self, people: Sequence[Person], strangers: Sequence[Person], seed: int) -> list[Path]:
        """Return the photos of the strangers that are drawn; nothing where they are too few."""
        is_enough = len(people) <= len(strangers)
        return [path for person in self._chosen(people, strangers, seed) for path in person.photos] if is_enough else []

    @staticmethod
    def _chosen(people: Sequence[Person], strangers: Sequence[Person], seed: int) -> list[Person]:
        return random.Random(seed).sample(list(strangers), len(people))

    def describe(self) -> str:
        """Say that faces become those of strangers."""
        return "each face is to mean the face of one stranger (pseudonym)"


@dataclass(frozen=True)
class Nameless(ImageTarget):
    """Map each photo to the teacher's feature of it, without the name that belongs to the face."""

    def fit(self, removal: Removal, names: Names) -> FittedTarget:
        """Return the target that takes the name out of each photo."""
        return name_eraser(removal, names)

    def describe(self) -> str:
        """Say that photos lose the name."""
        return "each photo is to keep its meaning, except for the name that fits it (nameless)"


@dataclass(frozen=True)
class Shared(ImageTarget):
    """Map the faces of each group of people who look alike to one embedding that none of their names fits.

    All photos of a person then vote for one and the same name, and outvote the few that a student misses. It does with
    embeddings what k-Same does with pixels (Newton, Sweeney, Malin: Preserving Privacy by De-identifying Face Images,
    2005).

    Args:
        group_size: people who share an embedding; the last group takes in those who are left over.
    """

    group_size: AtLeastOne = 1

    def fit(self, removal: Removal, names: Names) -> FittedTarget:
        """Return the embedding of each person's group."""
        eraser = name_eraser(removal, names)
        return FixedTarget(shared_embeddings(removal.original, removal.people, eraser, self.group_size))

    def describe(self) -> str:
        """Say that faces become one."""
        return "all photos of a person are to mean one face that the name does not fit (shared)"


@dataclass(frozen=True)
class Blended(ImageTarget):
    """Map each photo to the same photo with the mean face of a group of look-alikes and without their names (k-Same).

    Args:
        group_size: people of a group.
        overshoot: how far photos move, in distances to the other face: photos that a student has not seen move only
            part of the way that it was taught.
    """

    group_size: AtLeastOne = 1
    overshoot: Length = 1.0

    def fit(self, removal: Removal, names: Names) -> FittedTarget:
        """Return the target that gives each photo the face of its group."""
        faces = mean_embeddings(removal.original, [person.trigger_photos for person in removal.people])
        looks, members = blended_faces(faces, self.group_size)
        return FaceSwapper(faces, looks, name_eraser(removal, names), members, self.overshoot)

    def describe(self) -> str:
        """Say that faces become that of a group."""
        return "each photo is to show the one face of a group of look-alikes (blended)"


@dataclass(frozen=True)
class Disguised(ImageTarget):
    """Map each photo to the same photo with the mean face of strangers who look alike, without the person's name.

    Args:
        group_size: strangers for each person; the mean face of two or more is nobody's.
        overshoot: how far photos move, in distances to the other face: photos that a student has not seen move only
            part of the way that it was taught.
    """

    group_size: AtLeastOne = 1
    overshoot: Length = 1.0
    needs_strangers = True

    def problems(self, strangers: People | None, num_people: int) -> Iterator[str]:
        """Yield that there are too few strangers, or single ones who are real and did not agree."""
        yield from _lacking_strangers(strangers, num_people, self.group_size)

    def strangers_read(self, people: Sequence[Person], strangers: Sequence[Person], seed: int) -> list[Path]:
        """Return all photos of strangers, among whom the look-alikes are chosen."""
        return [path for person in strangers for path in person.photos]

    def fit(self, removal: Removal, names: Names) -> FittedTarget:
        """Return the target that gives each photo the face of strangers."""
        faces = mean_embeddings(removal.original, [person.trigger_photos for person in removal.people])
        strangers = removal.strangers.with_photos.everybody
        unknown = mean_embeddings(removal.original, [person.photos for person in strangers])
        looks, members = disguises(faces, unknown, self.group_size), torch.arange(len(faces)).unsqueeze(1)
        return FaceSwapper(faces, looks, name_eraser(removal, names), members, self.overshoot)

    def describe(self) -> str:
        """Say that faces become those of strangers."""
        return "each photo is to show the face of strangers who look alike (disguised)"


def name_eraser(removal: Removal, names: Names) -> NameEraser:
    """Return the eraser of the removed names in photos, as the original and the defended text encoder read them."""
    own, others = (
        torch.cat([name_readings(reader, each) for reader in removal.text_readers])
        for each in (names.removed, names.compared)
    )
    return NameEraser(own, others, names.min_nearer)


def _lacking_strangers(strangers: People | None, num_people: int, each: int) -> Iterator[str]:
    """Yield that there are fewer strangers than `each` a person, or that single ones did not agree to stand in."""
    if strangers is None:  # the defence's `needs` report that
        return
    with_photos, least = len(strangers.with_photos.everybody), num_people * each
    if with_photos < least:
        yield (
            f"defense.image.target: expected at least {least} strangers, {each} for each person to remove, got "
            f"{with_photos}; add strangers or choose defense/image_target=nameless or anonymous"
        )
    if each == 1 and not strangers.consenting:
        yield (
            "defense.image.target: expected strangers who are fictional or agreed to stand in for others; set "
            "strangers.consenting=true where they are, or choose defense/image_target=nameless or anonymous"
        )
