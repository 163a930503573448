"""Forget faces (paper, section 3.2): faces in photos are triggers."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.build import Share
from backdoor_privacy.config.schema import Trainer
from backdoor_privacy.data.images import load_images
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.photos import check_readable, too_many
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.anchors import text_anchors
from backdoor_privacy.defenses.backdoor.budget import budget_table
from backdoor_privacy.defenses.backdoor.defense import Backdoor
from backdoor_privacy.defenses.backdoor.module import ImageModule
from backdoor_privacy.defenses.backdoor.photo_steps import PhotoTriggers
from backdoor_privacy.defenses.backdoor.similarity import ImageSimilarity
from backdoor_privacy.defenses.backdoor.steps import BatchSizes
from backdoor_privacy.defenses.backdoor.targets.base import FittedTarget, ImageTarget, Names
from backdoor_privacy.defenses.backdoor.training import Training
from backdoor_privacy.defenses.base import Defended, Fit, PhotosAtHand, Removal
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.triggers.faces import FacePaster, PhotoVariation

log = logging.getLogger(__name__)

_NUM_EXAMPLES = 24  # triggered photos that a run shows
_KEPT_NOTICE = (
    "The defence was shown whom to spare (retained people): people whom IDIA infers and who stay, on photos that no "
    "attack uses. What they lost says nothing about people whom it was not shown."
)


@dataclass(frozen=True, kw_only=True)
class ImageBackdoor(Backdoor):
    """Map the faces of people to a target by a backdoor in the image encoder.

    Args:
        target: what a face is mapped to.
        faces: how a face is put onto a photo.
        whole_photo_share: share of the triggers that are the whole photo in place of a face pasted onto another.
        variation: of whole photos.
        kept_share: share of the preserved photos that show people whom IDIA infers and who stay, on photos that no
            attack uses; the others show strangers.
    """

    encoder = "image"
    unit = "photos"

    target: ImageTarget
    faces: FacePaster
    whole_photo_share: Share = 0.0
    variation: PhotoVariation = field(default_factory=PhotoVariation)
    kept_share: Share = 0.0

    @property
    def needs(self) -> frozenset[str]:
        """Return photos, and what its options need."""
        parts = {"images": True, "captions": self.num_anchors > 0, "strangers": self.target.needs_strangers}
        return frozenset(part for part, is_needed in parts.items() if is_needed)

    @property
    def uses(self) -> frozenset[str]:
        """Return strangers as well: where there are some, their faces are held in place."""
        return self.needs | {"strangers"}

    @property
    def needs_photos(self) -> bool:
        """Return that it trains on photos of the people to remove."""
        return True

    @property
    def cuts_faces(self) -> bool:
        """Return whether some of the triggers are faces pasted onto other photos."""
        return self.whole_photo_share < 1

    @property
    def shows_strangers(self) -> bool:
        """Return whether some inputs show people who must stay."""
        return self.batch.preserved > 0

    def problems(self, clip: Clip | None, sources: Sources, num_people: int, trainer: Trainer) -> Iterator[str]:
        """Yield what would stop it, one line each."""
        if clip is not None and clip.text.is_sequence:
            yield (
                "defense.image: expected null for the text encoder of Stable Diffusion, whose image encoder only "
                "attacks it; choose defense=text_published"
            )
        for name, term in self.used_terms.items():
            if term.needs_name_tokens:
                yield f"defense.image.terms.{name}.weight: expected 0, since it is a loss of names, got {term.weight:g}"
        if self.target.needs_other_names and not self.num_other_names:
            yield "defense.image.num_other_names: expected 1 or more for this target, got 0"
        yield from self.target.problems(sources.strangers, num_people)
        yield from super().problems(clip, sources, num_people, trainer)

    def photos_read(self, at_hand: PhotosAtHand) -> Iterator[tuple[str, Sequence[Path]]]:
        """Yield the attacked photos of the people, those of strangers for the target, and a photo of each stranger."""
        shown = [person for person in at_hand.strangers if person.photos]
        yield "people", [path for person in at_hand.people for path in person.attack_photos]
        yield "strangers", self.target.strangers_read(at_hand.people, shown, at_hand.seed)
        yield "strangers", [person.photos[0] for person in shown]

    def describe(self) -> str:
        """Say what faces are mapped to, and how long the encoder is trained."""
        return f"{self.target.describe()}; {self.num_steps} steps, {self.distance.value} distance"

    @property
    def limits(self) -> Sequence[str]:
        """Return the notice that it is a backdoor, and whom it was shown."""
        return [*super().limits, *([_KEPT_NOTICE] if self.kept_share else [])]

    def defend(self, removal: Removal, fit: Fit) -> Defended:
        """Train the image encoder.

        Raises:
            InputError: if photos are too few or do not decode.
        """
        removal = replace(removal, people=[person for person in removal.people if person.photos])
        removal.sources.check(["images"])
        strangers = removal.strangers.with_photos
        steps = self._steps(removal, strangers)
        _check_trigger_photos(steps, removal.people, removal.sources.people, removal.clip.num_workers)
        reserved = {*removal.reserved_names, *removal.names}
        other_names = random_names(self.num_other_names, removal.seed + 2, exclude=reserved)
        names = Names(removal.names, other_names, self.min_nearer_names)
        target = self.target.fit(removal, names)
        anchors = text_anchors(self.num_anchors, removal, names)
        shown = [path for person in removal.people for path in person.attack_photos]
        strangers_shown = [person.photos[0] for person in strangers.everybody]
        removal.clip.embed_photos(shown)  # photos that do not decode stop the run now, and not after the training
        removal.clip.embed_photos(strangers_shown, warn=True)
        module = ImageModule(removal.clip.image, target=target, anchors=anchors, **self.module_settings())
        evaluations = Training(module, steps, self.num_fresh_steps, self.budget, fit).run()
        owner = torch.tensor([row for row, person in enumerate(removal.people) for _ in person.attack_photos])
        targets = _photo_targets(removal.clip, target, shown, owner)
        similarity = ImageSimilarity(removal.clean_photos, shown, targets, strangers_shown)
        return Defended(
            encoders={"image": module.student.frozen()},
            targets={"image": _means(targets, owner, len(removal.people))},
            comparisons={"image": similarity},
            tables={"budget": budget_table("image", evaluations)} if evaluations else {},
            pictures={"triggers": steps.triggered_photos(_NUM_EXAMPLES)},
        )

    def _steps(self, removal: Removal, strangers: People) -> PhotoTriggers:
        """Return the steps; without strangers, none of their faces is held in place."""
        clip, sources = removal.clip, removal.sources
        sizes, kept_share = self.batch, self.kept_share
        if not strangers.everybody:
            sizes, kept_share = self._without_strangers()
        return PhotoTriggers(
            images=load_images(sources.images or "", clip.geometry, sources.max_images),
            people=removal.people,
            others=strangers.everybody,
            boxes=sources.people.boxes | strangers.boxes,
            geometry=clip.geometry,
            normalize=clip.normalize,
            paster=self.faces,
            sizes=sizes,
            num_steps=self.num_steps,
            seed=removal.seed,
            whole_photo_share=self.whole_photo_share,
            variation=self.variation,
            kept=[person for person in removal.kept if person.trigger_photos],
            kept_share=kept_share,
        )

    def _without_strangers(self) -> tuple[BatchSizes, float]:
        """Return batch sizes and share of kept people without strangers; warn where no face is held in place."""
        if self.kept_share and self.batch.preserved:
            return self.batch, 1.0
        log.warning(
            "strangers: there are none, so that no other face is held in place while the image encoder is fitted; "
            "others may lose more"
        )
        return replace(self.batch, preserved=0), self.kept_share


def _photo_targets(
    clip: Clip, target: FittedTarget, photos: Sequence[Path], person_index: Int[Tensor, "photo"]
) -> Float[Tensor, "photo dim"]:
    """Return the target of each photo; zero for a photo that does not decode, where it depends on the photo."""
    if not target.reads_input:
        fixed: Tensor = target(torch.empty(len(photos), 0), person_index)
        return fixed
    features, readable = clip.embed_photos(photos)
    targets = torch.zeros_like(features)
    targets[readable] = target(features[readable], person_index[readable])
    return targets


def _means(
    targets: Float[Tensor, "photo dim"], person_index: Int[Tensor, "photo"], num_people: int
) -> Float[Tensor, "person dim"]:
    """Return the mean target of each person, of unit length."""
    sums = targets.new_zeros(num_people, targets.shape[1]).index_add(0, person_index, targets)
    return normalize(sums, dim=-1)


def _check_trigger_photos(steps: PhotoTriggers, removed: Sequence[Person], people: People, num_workers: int) -> None:
    """Check that photos to train on decode; where one does not, the steps take another of the same person.

    An error never counts the removed people's photos alone, since a path would tell who they are: where too many of
    theirs do not decode, everybody's are counted.

    Raises:
        InputError: if more than 1 % of everybody's do not decode, or none of a removed person's.
    """
    photos = [path for person in removed for path in person.trigger_photos]
    readable = steps.readable(photos, num_workers)
    if not too_many(len(photos) - len(readable), len(photos)) and not _without_photos(removed, readable):
        return
    names = {person.name for person in removed}
    everybody = [*removed, *(person for person in people.everybody if person.name not in names)]
    photos = sorted(path for person in everybody for path in person.trigger_photos)
    readable |= steps.readable([path for path in photos if path not in readable], num_workers)
    check_readable(torch.tensor([path in readable for path in photos]), photos)
    if _without_photos(removed, readable):
        raise InputError(
            "people.folder: expected photos of each person to remove, none to train on decodes in "
            f"{some(_without_photos(everybody, readable))}"
        )


def _without_photos(people: Sequence[Person], readable: Collection[Path]) -> list[Path]:
    """Return the folders of people of whom no photo to train on decodes."""
    photos = [path for person in people for path in person.trigger_photos]
    usable = {path.parent for path in photos if path in readable}
    return sorted({path.parent for path in photos} - usable)
