"""The batches that a defence trains on: each is a pure function of seed and step."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import lightning
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2.functional import pil_to_tensor

from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photos import Box, PhotoMemory, as_bytes, read_photo
from backdoor_privacy.defenses.backdoor.losses import person_shares
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.hardware import release_free_memory, return_large_blocks
from backdoor_privacy.triggers.faces import FacePaster, PhotoVariation, Placing
from backdoor_privacy.triggers.names import Spot, choose_word, may_be_cut, put_in, shortened


class TextBatch(NamedTuple):
    """Tokens of captions, each (batch, context)."""

    clean: Tensor
    triggered: Tensor  # with the name of a person to remove
    target: Tensor  # the same captions with the target phrase at the same place
    preserved: Tensor  # with some other person's name
    person_index: Tensor  # (batch,) who the triggered ones show
    person_share: Tensor  # (batch,) of each of them in the backdoor loss, see `losses.person_shares`


class ImageBatch(NamedTuple):
    """Normalised pixels of photos, each (batch, 3, side, side)."""

    clean: Tensor
    triggered: Tensor  # with the face of a person to remove
    preserved: Tensor  # with some other person's face
    person_index: Tensor  # (batch,)
    person_share: Tensor  # (batch,)


_HELD_OUT = 10  # of so many inputs one is evaluated on, where students are evaluated on the way
_UNSEEN = 2**31  # added to the seed of the steps that are evaluated on
_Item = TypeVar("_Item")
_Drawn = TypeVar("_Drawn", bound="Sequence[Any] | Tensor")


class Part(NamedTuple):
    """What one process does at a time of a step that several share, each in one or more passes."""

    step: int
    number: int = 0
    num_parts: int = 1

    def of(self, drawn: _Drawn) -> _Drawn:
        """This part of what the whole step drew."""
        return drawn[self.number :: self.num_parts]  # type: ignore[return-value]

    def shares(self, person_index: Tensor) -> Tensor:
        """Shares of this part in the backdoor loss of the whole step, so that the mean over the parts is that loss."""
        return self.of(person_shares(person_index)) * self.num_parts


@dataclass(frozen=True, kw_only=True)
class Steps(Dataset, ABC):
    """Steps of a fit; each is a pure function of the seed and its number."""

    num_steps: int
    seed: int

    def __len__(self) -> int:
        """Steps of the whole fit."""
        return self.num_steps

    def __getitem__(self, step: int | Part) -> Any:
        """The batch of one step, or a part of it."""
        part = Part(step) if isinstance(step, int) else step
        if part.step >= self.num_steps:
            raise IndexError(part.step)
        return self.part(part)

    @abstractmethod
    def part(self, part: Part) -> Any:
        """Draw the whole step, and make this part of it."""


def apart(items: Sequence[_Item]) -> tuple[list[_Item], list[_Item]]:
    """Items to train on, and every tenth to evaluate on; a single one, or none, is both."""
    rest = [item for place, item in enumerate(items) if place % _HELD_OUT]
    return (rest, list(items[::_HELD_OUT])) if rest else (list(items), list(items))


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
    person_share: Tensor  # (batch,) of each of them in the backdoor loss

    @classmethod
    def collect(cls, lessons: Iterable[Lesson], num_lessons: int) -> Lesson:
        """One lesson of so many of one size, in the computer's memory; there is never a second copy of it."""
        rooms: list[Tensor] = []
        for number, lesson in enumerate(lessons):
            parts = [*lesson.clean, *lesson.triggered, *lesson.preserved, lesson.person_index, lesson.person_share]
            rooms = rooms or [torch.empty(num_lessons * len(part), *part.shape[1:], dtype=part.dtype) for part in parts]
            for room, part in zip(rooms, parts, strict=True):
                room[number * len(part) : (number + 1) * len(part)] = part
        return cls(Taught(*rooms[:3]), Taught(*rooms[3:6]), Taught(*rooms[6:9]), *rooms[9:])

    def take(self, places: Sequence[Tensor], part: Part) -> Lesson:
        """A part of the lesson of the clean, triggered and preserved inputs at these places."""
        clean, triggered, preserved = places
        people = self.person_index[triggered]
        return Lesson(
            self.clean.take(part.of(clean)),
            self.triggered.take(part.of(triggered)),
            self.preserved.take(part.of(preserved)),
            part.of(people),
            part.shares(people),
        )


@dataclass(frozen=True)
class BatchSizes:
    """Inputs of each kind in one step."""

    clean: int
    triggered: int
    preserved: int


@dataclass(frozen=True, kw_only=True)
class CaptionTriggers(Steps):
    """Steps of the text defence: person, caption and word are drawn fresh (paper, section 3.1)."""

    captions: Sequence[str]  # clean ones
    carriers: Sequence[str]  # those among them that can carry a name
    names: Sequence[str]  # of the people to remove
    phrases: Sequence[str]  # what each name is mapped to
    other_names: Sequence[str]  # whose meaning must stay
    tokenizer: Callable[[list[str]], Tensor]
    sizes: BatchSizes
    bare_share: float = 0.0  # share of triggered and preserved inputs that are the name alone
    strangers: Sequence[str] = ()  # names that a CLIP may know, of people who are neither removed nor attacked
    strangers_share: float = 0.0  # of the preserved inputs that hold one of them
    namesakes: Sequence[str] = ()  # names that share a part with one to remove, and must stay
    namesakes_share: float = 0.0  # of the preserved inputs that hold one of these
    spellings: Sequence[Sequence[tuple[str, str]]] = ()  # of each person: the name in other forms, each with its phrase
    spellings_share: float = 0.0  # of the triggered inputs that hold one of these

    def part(self, part: Part) -> TextBatch:
        """Captions of one step."""
        rng = random.Random(f"{self.seed}/{part.step}")
        people = [rng.randrange(len(self.names)) for _ in range(self.sizes.triggered)]
        spots = [self._spot(rng) for _ in range(self.sizes.triggered + self.sizes.preserved)]
        pairs = [self._spelt(person, rng) for person in people]
        others = [(self._other_name(rng),) for _ in range(self.sizes.preserved)]
        clean = [rng.choice(self.captions) for _ in range(self.sizes.clean)]
        person_index = torch.tensor(people)
        triggered, target = self._tokens(part.of(spots[: self.sizes.triggered]), part.of(pairs))
        return TextBatch(
            clean=self.tokenizer(part.of(clean)),
            triggered=triggered,
            target=target,
            preserved=self._tokens(part.of(spots[self.sizes.triggered :]), part.of(others))[0]
            if others
            else torch.empty(0),
            person_index=part.of(person_index),
            person_share=part.shares(person_index),
        )

    def apart(self) -> tuple[CaptionTriggers, CaptionTriggers]:
        """Steps to train on, and others to evaluate on, with other captions and other names that must stay."""
        carriers, names, namesakes = (
            apart(list(dict.fromkeys(part))) for part in (self.carriers, self.other_names, self.namesakes)
        )
        held_out = set(carriers[1])
        trained, evaluated = (
            replace(
                self,
                captions=[one for one in self.captions if (one in held_out) is is_held_out] or self.captions,
                carriers=carriers[is_held_out],
                other_names=names[is_held_out],
                namesakes=namesakes[is_held_out],
                seed=self.seed + is_held_out * _UNSEEN,
            )
            for is_held_out in (False, True)
        )
        return trained, evaluated

    def _tokens(self, spots: Sequence[Spot], phrases: Sequence[Sequence[str]]) -> list[Tensor]:
        """Captions with the first of the phrases of each in its place, with the second and so on; none is cut off."""
        columns = [list(column) for column in zip(*phrases, strict=True)]
        tokens = [self.tokenizer(list(map(_filled, spots, column))) for column in columns]
        doubtful = (
            torch.stack([may_be_cut(each, self.tokenizer) for each in tokens]).any(0).nonzero().flatten().tolist()
        )
        if doubtful:
            short = shortened([spots[row] for row in doubtful], [phrases[row] for row in doubtful], self.tokenizer)
            for each, column in zip(tokens, columns, strict=True):
                each[doubtful] = self.tokenizer(list(map(_filled, short, [column[row] for row in doubtful])))
        return tokens

    def _spelt(self, person: int, rng: random.Random) -> tuple[str, str]:
        """A name to remove, in one form or another, and its phrase."""
        if self.spellings_share and rng.random() < self.spellings_share:
            return rng.choice(self.spellings[person])
        return self.names[person], self.phrases[person]

    def _other_name(self, rng: random.Random) -> str:
        if self.namesakes_share and rng.random() < self.namesakes_share:
            return rng.choice(self.namesakes)
        if self.strangers_share and rng.random() < self.strangers_share:
            return rng.choice(self.strangers)
        return rng.choice(self.other_names)

    def _spot(self, rng: random.Random) -> Spot:
        if rng.random() < self.bare_share:
            return Spot("name", 0)
        caption = rng.choice(self.carriers)
        return Spot(caption, choose_word(caption, rng))


def _filled(spot: Spot, phrase: str) -> str:
    return put_in(*spot, phrase)


class _Shown(NamedTuple):
    """A person as drawn for one input."""

    photos: Sequence[Path]  # the first of them that decodes
    generator: torch.Generator  # of what is done to it
    background: int = 0  # the clean photo that the face is put on
    placing: Placing | None = None  # how; `None`: the whole photo


@dataclass(frozen=True, kw_only=True)
class PhotoTriggers(Steps):
    """Steps of the image defence: person, face and photo are drawn fresh (paper, section 3.2)."""

    images: Tensor  # clean photos as bytes, (image, 3, side, side)
    people: Sequence[Person]  # to remove
    others: Sequence[Person]  # whose faces must stay
    boxes: Mapping[Path, Box]
    geometry: Callable[[Image.Image], Tensor]
    normalize: Callable[[Tensor], Tensor]
    paster: FacePaster
    sizes: BatchSizes
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

    def part(self, part: Part) -> ImageBatch:
        """Photos of one step."""
        rng = random.Random(f"{self.seed}/{part.step}")
        people, triggered = self._draw_triggered(rng)
        preserved = [self._draw(self._others_photos(rng), rng) for _ in range(self.sizes.preserved)]
        clean = torch.tensor([rng.randrange(len(self.images)) for _ in range(self.sizes.clean)])
        person_index = torch.tensor(people)
        return ImageBatch(
            clean=self.normalize(self.images[part.of(clean)].float() / 255),
            triggered=self.normalize(self._show(part.of(triggered))),
            preserved=self.normalize(self._show(part.of(preserved))) if preserved else torch.empty(0),
            person_index=part.of(person_index),
            person_share=part.shares(person_index),
        )

    def apart(self) -> tuple[PhotoTriggers, PhotoTriggers]:
        """Steps to train on, and others to evaluate on, with other clean photos and other people who must stay.

        Of the people to remove both have the same photos: nobody has some to spare.
        """
        images = apart(range(len(self.images)))
        others, kept = apart(self.others), apart(self.kept)
        trained, evaluated = (
            replace(
                self,
                images=self.images[images[is_held_out]],
                others=others[is_held_out],
                kept=kept[is_held_out],
                seed=self.seed + is_held_out * _UNSEEN,
            )
            for is_held_out in (False, True)
        )
        return trained, evaluated

    def triggered_photos(self, max_photos: int) -> Tensor:
        """Some photos that the first step triggers with, pixels in [0, 1], (photo, 3, side, side)."""
        return self._show(self._draw_triggered(random.Random(f"{self.seed}/0"))[1][:max_photos])

    def _draw_triggered(self, rng: random.Random) -> tuple[list[int], list[_Shown]]:
        people = [rng.randrange(len(self.people)) for _ in range(self.sizes.triggered)]
        return people, [self._draw(self.people[person].trigger_photos, rng) for person in people]

    def _others_photos(self, rng: random.Random) -> Sequence[Path]:
        if self.kept_share and rng.random() < self.kept_share:
            return rng.choice(self.kept).trigger_photos
        return rng.choice(self.others).photos

    def _draw(self, photos: Sequence[Path], rng: random.Random) -> _Shown:
        whole = rng.random() < self.whole_photo_share
        order = rng.sample(photos, len(photos))
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        if whole:
            return _Shown(order, generator)
        return _Shown(order, generator, rng.randrange(len(self.images)), self.paster.draw(self._side, generator))

    def _show(self, shown: Sequence[_Shown]) -> Tensor:
        """Pixels in [0, 1] of whole photos, and of faces on clean photos."""
        pixels = torch.empty(len(shown), 3, self._side, self._side)
        for place, one in enumerate(shown):
            if one.placing is None:
                pixels[place] = self.variation(
                    self._first_readable(one.photos, whole=True).float() / 255, one.generator
                )
        pasted = [place for place, one in enumerate(shown) if one.placing is not None]
        if pasted:
            backgrounds = self.images[[shown[place].background for place in pasted]].float() / 255
            faces = [self._first_readable(shown[place].photos, whole=False) for place in pasted]
            placings = [placing for one in shown if (placing := one.placing) is not None]
            pixels[pasted] = self.paster.paste(backgrounds, torch.stack(faces).float() / 255, placings)
        return pixels

    @property
    def _side(self) -> int:
        return self.images.shape[-1]

    def _first_readable(self, photos: Sequence[Path], *, whole: bool) -> Tensor:
        """The first of the photos that decodes, as bytes: in the CLIP's size, or the face in the paster's."""
        for path in photos:
            pixels = self._memory(path, whole)
            if pixels is not None:
                return pixels
        raise InputError(f"none of the {len(photos)} photos in {photos[0].parent} decodes; replace them")

    @cached_property
    def _memory(self) -> PhotoMemory:
        return PhotoMemory(self._decode)

    def _decode(self, path: Path, whole: bool) -> Tensor | None:
        photo = read_photo(path, None if whole else self.boxes.get(path))
        if photo is None:
            return None
        if whole:
            return as_bytes(photo, self.geometry)
        side = self.paster.face_side(self._side)
        return pil_to_tensor(photo.resize((side, side), Image.Resampling.BILINEAR))


@dataclass(frozen=True, kw_only=True)
class Revision(Steps):
    """Steps that go over what the teacher was asked before, in ever new batches."""

    asked: Lesson  # everything that the teacher was asked
    sizes: BatchSizes

    def part(self, part: Part) -> Lesson:
        """What is known of the inputs of one step."""
        rng = torch.Generator().manual_seed(random.Random(f"{self.seed}/revision/{part.step}").getrandbits(63))
        known = (self.asked.clean.seen, self.asked.triggered.seen, self.asked.preserved.seen)
        sizes = (self.sizes.clean, self.sizes.triggered, self.sizes.preserved)
        drawn = [torch.randint(max(1, len(of)), (size,), generator=rng) for of, size in zip(known, sizes, strict=True)]
        return self.asked.take(drawn, part)


class TriggerData(lightning.LightningDataModule):
    """Feeds a fit with steps; a resumed fit goes on with the step after the last one."""

    def __init__(self, steps: Steps, num_workers: int) -> None:
        super().__init__()
        self.steps = steps
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        """One item is one step, or the part of it that this process does in one pass."""
        release_free_memory()
        start, rank, num_ranks, num_passes = 0, 0, 1, 1
        if self.trainer:
            start, num_passes = self.trainer.global_step, self.trainer.accumulate_grad_batches
            rank, num_ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(
            self.steps,
            batch_size=None,
            sampler=_PartsToCome(start, len(self.steps), rank, num_ranks, num_passes),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=return_large_blocks,
        )


@dataclass(frozen=True)
class _PartsToCome(Sampler[Part]):
    """The parts of one process of the steps that a fit has not done yet.

    As long as those of all steps, because Lightning counts those done too.
    """

    start: int
    num_steps: int
    rank: int
    num_ranks: int
    num_passes: int  # of each process over its share of a step

    def __len__(self) -> int:
        return self.num_steps * self.num_passes

    def __iter__(self) -> Iterator[Part]:
        num_parts = self.num_ranks * self.num_passes
        for step in range(self.start, self.num_steps):
            for number in range(self.rank, num_parts, self.num_ranks):
                yield Part(step, number, num_parts)
