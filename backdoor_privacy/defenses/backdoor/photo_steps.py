"""Steps of a defence of faces: photos that show one (paper, section 3.2)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from backdoor_privacy.data.people import Person
from backdoor_privacy.data.photo_memory import PhotoMemory, Views
from backdoor_privacy.data.photos import Box, as_bytes, cut_to, read_photo
from backdoor_privacy.defenses.backdoor.steps import UNSEEN, Part, Steps, apart
from backdoor_privacy.errors import InputError
from backdoor_privacy.triggers.faces import FacePaster, PhotoVariation, Placing


class ImageBatch(NamedTuple):
    """Normalised pixels of photos, each (batch, 3, side, side)."""

    clean: Tensor
    triggered: Tensor  # with the face of a person to remove
    preserved: Tensor  # with some other person's face
    person_index: Tensor  # (batch,) whom each triggered photo shows
    person_share: Tensor  # (batch,) share of each triggered photo in the backdoor loss, see `losses.person_shares`


class _Shown(NamedTuple):
    """A person as drawn for one input."""

    photos: Sequence[Path]  # in the order in which they are tried; the first that decodes is shown
    generator: torch.Generator  # of the random changes to it
    background: int = 0  # the clean photo that the face is put on
    placing: Placing | None = None  # how the face is put there; `None`: the whole photo is shown instead


@dataclass(frozen=True, kw_only=True)
class PhotoTriggers(Steps[ImageBatch]):
    """Steps of the image defence: person, face and photo are drawn fresh (paper, section 3.2)."""

    images: Tensor  # clean photos as bytes, (image, 3, side, side)
    people: Sequence[Person]  # to remove
    others: Sequence[Person]  # whose faces must stay
    boxes: Mapping[Path, Box]
    geometry: Callable[[Image.Image], Tensor]
    normalize: Callable[[Tensor], Tensor]
    paster: FacePaster
    whole_photo_share: float = 0.0  # share of triggered and preserved inputs that are the person's whole photo
    variation: PhotoVariation = field(default_factory=PhotoVariation)  # of these whole photos
    kept: Sequence[Person] = ()  # people of the attacked collection whom the defence is told to spare
    kept_share: float = 0.0  # share of preserved inputs that show one of them, on a photo that no attack uses
    memory: PhotoMemory = field(default_factory=PhotoMemory)  # of people's photos; steps apart share it

    def __post_init__(self) -> None:
        if self.kept_share and not self.kept:
            raise InputError(
                f"defense.image.kept_share: expected people whom IDIA infers and who are not removed, got none; set it "
                f"to 0, not {self.kept_share}"
            )

    def part(self, part: Part) -> ImageBatch:
        """Return the photos of a part of a step."""
        rng = random.Random(f"{self.seed}/{part.step}")
        people, triggered = self._draw_triggered(rng)
        preserved = [self._draw(self._others_photos(rng), rng) for _ in range(self.sizes.preserved)]
        clean = torch.tensor([rng.randrange(len(self.images)) for _ in range(self.sizes.clean)])
        person_index = torch.tensor(people)
        return ImageBatch(
            clean=self.normalize(self.images[part.rows(clean)].float() / 255),
            triggered=self.normalize(self._show(part.items(triggered))),
            preserved=self.normalize(self._show(part.items(preserved))) if preserved else torch.empty(0),
            person_index=part.rows(person_index),
            person_share=part.shares(person_index),
        )

    def apart(self) -> tuple[PhotoTriggers, PhotoTriggers]:
        """Return steps to train on, and others to evaluate on, with other clean photos and other people who must stay.

        Both have the same photos of the people to remove, since nobody has photos to spare.
        """
        images = apart(range(len(self.images)))
        others, kept = apart(self.others), apart(self.kept)
        trained, evaluated = (
            replace(
                self,
                images=self.images[images[is_held_out]],
                others=others[is_held_out],
                kept=kept[is_held_out],
                seed=self.seed + is_held_out * UNSEEN,
            )
            for is_held_out in (False, True)
        )
        return trained, evaluated

    def triggered_photos(self, max_photos: int) -> Tensor:
        """Return some triggered photos of the first step, pixels in [0, 1], (photo, 3, side, side)."""
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
        """Return the pixels in [0, 1] of whole photos, and of faces on clean photos."""
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
        """Return the first of the photos that decodes, as bytes: in the CLIP's size, or the face in the paster's."""
        for path in photos:
            views = self.memory.get(path, self._decode)
            if views is not None:
                return views[0] if whole else views[-1]
        raise InputError(
            f"{photos[0].parent}: expected photos that decode, got {len(photos)} of which none does; replace them"
        )

    def readable(self, photos: Sequence[Path], num_workers: int) -> set[Path]:
        """Return the photos that decode; they are decoded now, so that no step has to."""
        return self.memory.fill(photos, self._decode, num_workers)

    def _decode(self, path: Path) -> Views | None:
        """Decode a photo once: whole in the CLIP's size, and the face in the paster's, as far as some step shows it."""
        photo = read_photo(path)
        if photo is None:
            return None
        views = []
        if self.whole_photo_share > 0:
            views.append(as_bytes(photo, self.geometry))
        if self.whole_photo_share < 1:
            box, side = self.boxes.get(path), self.paster.face_side(self._side)
            face = photo if box is None else cut_to(box, photo, path)
            views.append(pil_to_tensor(face.resize((side, side), Image.Resampling.BILINEAR)))
        return tuple(views)
