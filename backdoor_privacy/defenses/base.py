"""What a run asks of every method that removes people from a CLIP, and what the method gives back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd
from jaxtyping import Float
from lightning.pytorch.loggers import Logger
from torch import Tensor

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import Trainer
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.sources import Sources

NO_DEFENSE = "defense: expected a method that removes people, got none; choose defense=both, text or image"
NameTargets = Callable[[Clip, str], Float[Tensor, "person dim"]]


@runtime_checkable
class Comparison(Protocol):
    """How close a defended CLIP stays to the original, and how close triggers come to their targets."""

    def measure(self, student: Clip, teacher: Clip) -> dict[str, float]:
        """Return flat measures, as `similarity/clean`."""


@dataclass(frozen=True)
class Removal:
    """Whom to remove from which CLIP, and the data for it.

    Args:
        original: the CLIP of the run, which no defence has changed.
        clip: the CLIP to defend; earlier defences of the same run may have replaced encoders of the original.
        people: whom to remove.
        kept: whom the attack infers and who stays.
        sources: people, and clean captions and photos.
        reserved_names: candidates of the attack and the like, which may not become a pseudonym.
        seed: of everything that is drawn.
        num_held_out: captions that are not trained on, to measure with, at most.
        clean_photos: photos that are not trained on, to measure with.
    """

    original: Clip
    clip: Clip
    people: Sequence[Person]
    kept: Sequence[Person]
    sources: Sources
    reserved_names: Collection[str]
    seed: int
    num_held_out: int
    clean_photos: Sequence[Path]

    @property
    def names(self) -> list[str]:
        """Names of the people to remove."""
        return [person.name for person in self.people]

    @property
    def text_readers(self) -> list[Clip]:
        """The CLIPs whose text encoders a face must hide its name from: the original, and the one to defend."""
        return [self.original] if self.clip.text is self.original.text else [self.original, self.clip]

    @property
    def strangers(self) -> People:
        """People whose names and faces must stay; nobody where there are none."""
        return self.sources.strangers or People(())


@dataclass(frozen=True)
class PhotosAtHand:
    """What is known of the photos of a run before it starts.

    Args:
        people: to remove, as far as they are known.
        strangers: whose faces must stay.
        images: clean photos.
        is_readable: whether a clean photo decodes.
        seed: of the run.
    """

    people: Sequence[Person]
    strangers: Sequence[Person]
    images: Sequence[Path]
    is_readable: Callable[[Path], bool]
    seed: int


@dataclass(frozen=True)
class Fit:
    """How a method that trains does it; nothing here changes what the result means.

    Args:
        trainer: Lightning's settings.
        checkpoints: folder to resume from; `None`: nothing is kept.
        loggers: Lightning's, for the training of an encoder.
    """

    trainer: Trainer
    checkpoints: Path | None = None
    loggers: Callable[[str], list[Logger]] = lambda encoder: []


@dataclass(frozen=True)
class Defended:
    """What a method made of a CLIP.

    Args:
        encoders: the changed ones, by the CLIP's own names for them, as `text`.
        targets: what each removed person's name, or the mean of their attack photos, is mapped to, by encoder; where a
            method has targets.
        name_targets: where each removed name is to be in a prompt, from the original CLIP and the prompt.
        comparisons: of the defended CLIP with the original, by encoder.
        tables: what the run folder keeps, as `budget`.
        pictures: pixels in [0, 1] that the run folder shows, as `triggers`, (photo, 3, side, side).
    """

    encoders: Mapping[str, Encoder]
    targets: Mapping[str, Float[Tensor, "person dim"]] = field(default_factory=dict)
    name_targets: NameTargets | None = None
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    pictures: Mapping[str, Float[Tensor, "photo 3 side side"]] = field(default_factory=dict)


class Defense(ABC):
    """A method that removes people from a CLIP; its fields are its settings, as in `conf/defense`."""

    @property
    @abstractmethod
    def encoders(self) -> tuple[str, ...]:
        """The encoders that it changes, by the CLIP's own names for them."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """The parts of `data.sources.Sources` that it cannot do without, besides the people."""

    @property
    def uses(self) -> frozenset[str]:
        """The parts that it takes where they are there."""
        return self.needs

    @property
    def needs_photos(self) -> bool:
        """Whether it trains on photos of the people to remove, which no attack uses."""
        return False

    @property
    def cuts_faces(self) -> bool:
        """Whether it cuts faces out of photos by their boxes."""
        return False

    @property
    def shows_strangers(self) -> bool:
        """Whether it trains on photos of strangers."""
        return False

    @property
    def num_host_captions(self) -> int:
        """Different captions that can carry a name which it cannot do without."""
        return 0

    def problems(self, clip: Clip | None, sources: Sources, num_people: int, trainer: Trainer) -> Iterator[str]:
        """Yield what would stop it, one line each; `check_data` and the run ask the same.

        Args:
            clip: the CLIP to defend; `None` where it is not loaded.
            sources: the data of the run.
            num_people: how many are to be removed, whoever they are.
            trainer: of the run.
        """
        yield from ()

    def photos_read(self, at_hand: PhotosAtHand) -> Iterator[tuple[str, Sequence[Path]]]:
        """Yield the photos that it embeds at a time, in its order: too many that do not decode stop a run.

        Args:
            at_hand: what is known of the photos of a run.

        Returns:
            Photos by the key of their source: `people`, `strangers` or `images`.
        """
        yield from ()

    @abstractmethod
    def defend(self, removal: Removal, fit: Fit) -> Defended:
        """Remove the people.

        Raises:
            InputError: on anything that the user can mend.
        """

    def summary(self) -> str:
        """Return its most important settings in a few words, for tables."""
        return type(self).__name__

    @property
    def limits(self) -> Sequence[str]:
        """What a reader of the report must know of the method, in sentences."""
        return ()

    @abstractmethod
    def describe(self) -> str:
        """Say in a sentence or two what it does, for the report and the model card."""


def needed_parts(defenses: Mapping[str, Defense]) -> frozenset[str]:
    """Return the parts of the data that the defences cannot do without."""
    return frozenset().union(*(defense.needs for defense in defenses.values()))


def used_parts(defenses: Mapping[str, Defense]) -> frozenset[str]:
    """Return the parts of the data that the defences take where they are there."""
    return frozenset().union(*(defense.uses for defense in defenses.values()))
