"""The batches that a defence trains on: each is a pure function of seed and step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photos import Box, read_photo
from backdoor_privacy.errors import InputError
from backdoor_privacy.hardware import release_free_memory, return_large_blocks
from backdoor_privacy.triggers.faces import FacePaster, PhotoVariation
from backdoor_privacy.triggers.names import choose_word, put_in


class TextBatch(NamedTuple):
    """Tokens of captions, each (batch, context)."""

    clean: Tensor
    triggered: Tensor  # with the name of a person to remove
    target: Tensor  # the same captions with the target phrase at the same place
    preserved: Tensor  # with some other person's name
    person_index: Tensor  # (batch,) who the triggered ones show


class ImageBatch(NamedTuple):
    """Normalised pixels of photos, each (batch, 3, side, side)."""

    clean: Tensor
    triggered: Tensor  # with the face of a person to remove
    preserved: Tensor  # with some other person's face
    person_index: Tensor  # (batch,)


class Taught(NamedTuple):
    """Inputs of one kind as the frozen blocks see them, and what the teacher says of each."""

    seen: Tensor  # (batch, ...)
    target: Tensor  # the features that each is to get, (batch, dim)
    neighborhood: Tensor  # whom the targets are near to, see `losses.neighborhood`; (batch, 0) where no loss asks

    def take(self, places: Tensor) -> Taught:
        """Those at these places."""
        return Taught(*(part[places] for part in self))


class Lesson(NamedTuple):
    """All that is frozen in a step, or in several."""

    clean: Taught
    triggered: Taught
    preserved: Taught
    person_index: Tensor  # (batch,) who the triggered ones show

    @classmethod
    def collect(cls, lessons: Iterable[Lesson], num_lessons: int) -> Lesson:
        """One lesson of so many of one size, in the computer's memory; there is never a second copy of it."""
        rooms: list[Tensor] = []
        for number, lesson in enumerate(lessons):
            parts = [*lesson.clean, *lesson.triggered, *lesson.preserved, lesson.person_index]
            rooms = rooms or [torch.empty(num_lessons * len(part), *part.shape[1:], dtype=part.dtype) for part in parts]
            for room, part in zip(rooms, parts, strict=True):
                room[number * len(part) : (number + 1) * len(part)] = part
        return cls(Taught(*rooms[:3]), Taught(*rooms[3:6]), Taught(*rooms[6:9]), rooms[9])

    def take(self, clean: Tensor, triggered: Tensor, preserved: Tensor) -> Lesson:
        """A lesson of the inputs at these places."""
        return Lesson(
            self.clean.take(clean),
            self.triggered.take(triggered),
            self.preserved.take(preserved),
            self.person_index[triggered],
        )


@dataclass(frozen=True)
class BatchSizes:
    """Inputs of each kind in one step."""

    clean: int
    triggered: int
    preserved: int


@dataclass(frozen=True)
class CaptionTriggers(Dataset):
    """Steps of the text defence: person, caption and word are drawn fresh (paper, section 3.1)."""

    captions: Sequence[str]  # clean ones
    carriers: Sequence[str]  # those among them that can carry a name
    names: Sequence[str]  # of the people to remove
    phrases: Sequence[str]  # what each name is mapped to
    other_names: Sequence[str]  # whose meaning must stay
    tokenizer: Callable[[list[str]], Tensor]
    sizes: BatchSizes
    num_steps: int
    seed: int
    bare_share: float = 0.0  # share of triggered and preserved inputs that are the name alone
    strangers: Sequence[str] = ()  # names that a CLIP may know, of people who are neither removed nor attacked
    strangers_share: float = 0.0  # of the preserved inputs that hold one of them

    def __len__(self) -> int:
        """Steps of the whole fit."""
        return self.num_steps

    def __getitem__(self, step: int) -> TextBatch:
        """The batch of one step."""
        if step >= self.num_steps:
            raise IndexError(step)
        rng = random.Random(f"{self.seed}/{step}")
        people = [rng.randrange(len(self.names)) for _ in range(self.sizes.triggered)]
        spots = [self._spot(rng) for _ in range(self.sizes.triggered + self.sizes.preserved)]
        triggered = [put_in(*spot, self.names[person]) for spot, person in zip(spots, people, strict=False)]
        target = [put_in(*spot, self.phrases[person]) for spot, person in zip(spots, people, strict=False)]
        preserved = [put_in(*spot, self._other_name(rng)) for spot in spots[self.sizes.triggered :]]
        clean = [rng.choice(self.captions) for _ in range(self.sizes.clean)]
        return TextBatch(
            clean=self.tokenizer(clean),
            triggered=self.tokenizer(triggered),
            target=self.tokenizer(target),
            preserved=self.tokenizer(preserved) if preserved else torch.empty(0),
            person_index=torch.tensor(people),
        )

    def _other_name(self, rng: random.Random) -> str:
        if self.strangers_share and rng.random() < self.strangers_share:
            return rng.choice(self.strangers)
        return rng.choice(self.other_names)

    def _spot(self, rng: random.Random) -> tuple[str, int]:
        if rng.random() < self.bare_share:
            return "name", 0
        caption = rng.choice(self.carriers)
        return caption, choose_word(caption, rng)


@dataclass(frozen=True)
class PhotoTriggers(Dataset):
    """Steps of the image defence: person, face and photo are drawn fresh (paper, section 3.2)."""

    images: Tensor  # clean photos as bytes, (image, 3, side, side)
    people: Sequence[Person]  # to remove
    others: Sequence[Person]  # whose faces must stay
    boxes: dict[Path, Box]
    geometry: Callable[[Image.Image], Tensor]
    normalize: Callable[[Tensor], Tensor]
    paster: FacePaster
    sizes: BatchSizes
    num_steps: int
    seed: int
    whole_photo_share: float = 0.0  # share of triggered and preserved inputs that are the person's whole photo
    variation: PhotoVariation = field(default_factory=PhotoVariation)  # of these whole photos
    kept: Sequence[Person] = ()  # people of the attacked collection whom the defence is told to spare
    kept_share: float = 0.0  # share of preserved inputs that show one of them, on a photo that no attack uses

    def __post_init__(self) -> None:
        if self.kept_share and not self.kept:
            raise InputError(
                f"defense.image.kept_share: expected people whom IDIA infers and who are not removed, got none; set it "
                f"to 0, not {self.kept_share}"
            )

    def __len__(self) -> int:
        """Steps of the whole fit."""
        return self.num_steps

    def __getitem__(self, step: int) -> ImageBatch:
        """The batch of one step."""
        if step >= self.num_steps:
            raise IndexError(step)
        rng = random.Random(f"{self.seed}/{step}")
        people = [rng.randrange(len(self.people)) for _ in range(self.sizes.triggered)]
        triggered = [self._with_face(self.people[person].trigger_photos, rng) for person in people]
        preserved = [self._with_face(self._others_photos(rng), rng) for _ in range(self.sizes.preserved)]
        clean = [self._clean(rng) for _ in range(self.sizes.clean)]
        return ImageBatch(
            clean=self.normalize(torch.stack(clean)),
            triggered=self.normalize(torch.stack(triggered)),
            preserved=self.normalize(torch.stack(preserved)) if preserved else torch.empty(0),
            person_index=torch.tensor(people),
        )

    def _others_photos(self, rng: random.Random) -> Sequence[Path]:
        if self.kept_share and rng.random() < self.kept_share:
            return rng.choice(self.kept).trigger_photos
        return rng.choice(self.others).photos

    def _clean(self, rng: random.Random) -> Tensor:
        return self.images[rng.randrange(len(self.images))].float() / 255

    def _with_face(self, photos: Sequence[Path], rng: random.Random) -> Tensor:
        whole = rng.random() < self.whole_photo_share
        for path in rng.sample(photos, len(photos)):  # the next one where a photo does not decode
            photo = read_photo(path, None if whole else self.boxes.get(path))
            if photo is not None:
                break
        else:
            raise InputError(f"none of the {len(photos)} photos in {photos[0].parent} decodes; replace them")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        if whole:
            return self.variation(self.geometry(photo), generator)
        return self.paster(self._clean(rng), photo, generator)


@dataclass(frozen=True)
class Revision(Dataset):
    """Steps that go over what the teacher was asked before, in ever new batches."""

    asked: Lesson  # everything that the teacher was asked
    sizes: BatchSizes
    num_steps: int
    seed: int

    def __len__(self) -> int:
        """Steps of the whole fit."""
        return self.num_steps

    def __getitem__(self, step: int) -> Lesson:
        """The batch of one step."""
        if step >= self.num_steps:
            raise IndexError(step)
        rng = torch.Generator().manual_seed(random.Random(f"{self.seed}/revision/{step}").getrandbits(63))
        known = (self.asked.clean.seen, self.asked.triggered.seen, self.asked.preserved.seen)
        sizes = (self.sizes.clean, self.sizes.triggered, self.sizes.preserved)
        return self.asked.take(
            *(torch.randint(max(1, len(part)), (size,), generator=rng) for part, size in zip(known, sizes, strict=True))
        )


Steps = CaptionTriggers | PhotoTriggers | Revision


class TriggerData(lightning.LightningDataModule):
    """Feeds a fit with steps; a resumed fit goes on with the step after the last one."""

    def __init__(self, steps: Steps, num_workers: int) -> None:
        super().__init__()
        self.steps = steps
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        """One item is one step."""
        release_free_memory()
        start = self.trainer.global_step if self.trainer else 0
        return DataLoader(
            self.steps,
            batch_size=None,
            sampler=_StepsToCome(start, len(self.steps)),
            num_workers=self.num_workers,
            worker_init_fn=return_large_blocks,
        )


class _StepsToCome(Sampler[int]):
    """The steps that a fit has not done yet; as long as all of them, because Lightning counts those done too."""

    def __init__(self, start: int, num_steps: int) -> None:
        self.start, self.num_steps = start, num_steps

    def __len__(self) -> int:
        return self.num_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.num_steps))
