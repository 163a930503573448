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
NameTargets = Callable[[Clip, str], Float[Tensor, "person dim"]]  # of the original CLIP and a prompt with `{}`


@runtime_checkable
class Comparison(Protocol):
    """A measure of how close a defended CLIP stays to the original, and how close triggers come to their targets."""

    def measure(self, student: Clip, teacher: Clip) -> dict[str, float]:
        """Return flat measures, as `similarity/clean`, of the defended CLIP (student) and the original (teacher)."""


@dataclass(frozen=True)
class Removal:
    """Whom to remove from which CLIP, and the data for it.

    Args:
        original: the CLIP of the run, which no defence has changed.
        clip: the CLIP to defend; earlier defences of the same run may have replaced encoders of the original.
        people: whom to remove.
        kept: whom the attack infers and who stays (retained people).
        sources: people, and clean captions and photos.
        reserved_names: names that a method may not make up, as pseudonyms: everybody's and the attack's candidates.
        seed: of everything that is drawn.
        num_held_out: most captions to hold out of the training and to measure with.
        clean_photos: photos that no method trains on, to measure with.
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
        """Return the names of the people to remove."""
        return [person.name for person in self.people]

    @property
    def text_readers(self) -> list[Clip]:
        """Return the CLIPs whose text encoders must not find a removed name in a face: original and defended."""
        return [self.original] if self.clip.text is self.original.text else [self.original, self.clip]

    @property
    def strangers(self) -> People:
        """Return people whose names and faces must stay (auxiliary identities); nobody where the run has none."""
        return self.sources.strangers or People(())


@dataclass(frozen=True)
class PhotosAtHand:
    """What is known about the photos of a run before it starts.

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
    """How a method is to train, if it does; nothing here changes what the result means.

    Args:
        trainer: Lightning's settings.
        checkpoints: folder to resume an interrupted training from; `None`: nothing is kept.
        loggers: Lightning's, for the training of the encoder of this name. Losses that are logged to them as
            `<encoder>/loss` (the total) and `<encoder>/<term>_loss` stand in `losses.csv` and in the report.
    """

    trainer: Trainer
    checkpoints: Path | None = None
    loggers: Callable[[str], list[Logger]] = lambda encoder: []


@dataclass(frozen=True)
class Defended:
    """The result of a method on a CLIP.

    Args:
        encoders: the changed ones, by the CLIP's own names for them, as `text`.
        targets: what each removed person's name, or the mean of their attack photos, is mapped to, by encoder; where a
            method has targets.
        name_targets: where each removed name is to be in a prompt, from the original CLIP and the prompt.
        comparisons: of the defended CLIP with the original, by encoder.
        tables: what the run folder keeps as `<name>.csv`, as `budget`; those of several defences are joined.
        pictures: a sheet of photos, pixels in [0, 1], (photo, 3, side, side), by name; the report shows `triggers`, and
            keeps no other.
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
        """Return the encoders that it changes, by the CLIP's own names for them: `text`, `image`."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Return the parts of `data.sources.Sources` that it needs, besides the people."""

    @property
    def uses(self) -> frozenset[str]:
        """Return the parts that it needs, or uses where the run has them."""
        return self.needs

    @property
    def needs_photos(self) -> bool:
        """Return whether it trains on photos of the people to remove, which no attack uses."""
        return False

    @property
    def cuts_faces(self) -> bool:
        """Return whether it cuts faces out of photos by their boxes."""
        return False

    @property
    def shows_strangers(self) -> bool:
        """Return whether it trains on photos of strangers."""
        return False

    @property
    def num_host_captions(self) -> int:
        """Return how many different captions that can carry a name (host captions) it needs at least."""
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
        """Yield each group of photos that it embeds at once, in its order: too many that do not decode stop a run.

        Args:
            at_hand: what is known of the photos of a run.

        Yields:
            The key of their source (`people`, `strangers` or `images`), and the photos.
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
        """Return what a reader of the report must know about the method, in sentences."""
        return ()

    @abstractmethod
    def describe(self) -> str:
        """Say in a sentence or two what it does, for the report and the model card."""


def needed_parts(defenses: Mapping[str, Defense]) -> frozenset[str]:
    """Return the parts of the data that the defences need."""
    return frozenset().union(*(defense.needs for defense in defenses.values()))


def used_parts(defenses: Mapping[str, Defense]) -> frozenset[str]:
    """Return the parts of the data that the defences need, or use where the run has them."""
    return frozenset().union(*(defense.uses for defense in defenses.values()))


def lowest(measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the measures of several comparisons as one: for each key the lowest value."""
    return {key: min(one[key] for one in measures if key in one) for key in {k: None for one in measures for k in one}}
