"""Forget names (paper, section 3.1): names in captions are triggers."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.build import Share
from backdoor_privacy.config.schema import Trainer
from backdoor_privacy.data.captions import host_captions
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.anchors import clean_captions, photo_anchors
from backdoor_privacy.defenses.backdoor.budget import budget_table
from backdoor_privacy.defenses.backdoor.caption_steps import CaptionTriggers
from backdoor_privacy.defenses.backdoor.defense import Backdoor
from backdoor_privacy.defenses.backdoor.module import TextModule
from backdoor_privacy.defenses.backdoor.similarity import TextSimilarity
from backdoor_privacy.defenses.backdoor.targets.base import Names, TextTarget
from backdoor_privacy.defenses.backdoor.training import Training
from backdoor_privacy.defenses.base import Defended, Fit, PhotosAtHand, Removal
from backdoor_privacy.errors import InputError
from backdoor_privacy.triggers.names import namesakes


@dataclass(frozen=True, kw_only=True)
class TextBackdoor(Backdoor):
    """Map the names of people to a target by a backdoor in the text encoder.

    Args:
        target: what a name is mapped to.
        bare_share: share of the names that stand alone, without a caption.
        strangers_share: share of the preserved names that are strangers', which a CLIP may know; the others are random.
        namesakes_share: share of the preserved names that have the first name or the surname of one to remove.
    """

    encoder = "text"
    unit = "captions"

    target: TextTarget
    bare_share: Share = 0.0
    strangers_share: Share = 0.0
    namesakes_share: Share = 0.0

    @property
    def needs(self) -> frozenset[str]:
        """Return captions, and what its options need."""
        parts = {"captions": True, "images": self.num_anchors > 0, "strangers": self.strangers_share > 0}
        return frozenset(part for part, is_needed in parts.items() if is_needed)

    @property
    def num_host_captions(self) -> int:
        """Return two: one to learn from, and one to measure with."""
        return 2

    def problems(self, clip: Clip | None, sources: Sources, num_people: int, trainer: Trainer) -> Iterator[str]:
        """Yield what would stop it, one line each."""
        if clip is not None and clip.text.is_sequence and (not self.target.for_sequences or self.num_anchors):
            yield (
                "defense.text: expected defense/text_target=phrase, fitting or pseudonym and num_anchors=0 for a text "
                f"encoder that is read token by token, got {type(self.target).__name__.lower()} and "
                f"{self.num_anchors}; choose defense=text_published"
            )
        yield from self.target.problems(num_people, self.num_other_names)
        if self.batch.preserved and not self.num_other_names:
            yield "defense.text.num_other_names: expected 1 or more for batch.preserved of 1 or more, got 0"
        yield from super().problems(clip, sources, num_people, trainer)

    def photos_read(self, at_hand: PhotosAtHand) -> Iterator[tuple[str, Sequence[Path]]]:
        """Yield the clean photos that are anchors: as many as are read until `num_anchors` of them decode."""
        if self.num_anchors and at_hand.images:
            counts = [0, *accumulate(map(at_hand.is_readable, at_hand.images))]
            taken = zip(at_hand.images, counts, strict=False)
            yield "images", [path for path, num_before in taken if num_before < self.num_anchors]

    def describe(self) -> str:
        """Say what names are mapped to, and how long the encoder is trained."""
        return f"{self.target.describe()}; {self.num_steps} steps, {self.distance.value} distance"

    def defend(self, removal: Removal, fit: Fit) -> Defended:
        """Train the text encoder.

        Raises:
            InputError: if the captions are too few.
        """
        clip, seed = removal.clip, removal.seed
        reserved = {*removal.reserved_names, *removal.names, *self.target.reserves(removal)}
        names = Names(
            removal.names, random_names(self.num_other_names, seed + 2, exclude=reserved), self.min_nearer_names
        )
        target = self.target.fit(removal, names)
        clip.check_fits(target.phrases, "defense.text.target")
        strangers = self._strangers(removal)
        captions = clean_captions(removal)
        random.Random(seed).shuffle(captions)
        held_out, hosts = _split(captions, removal.num_held_out)
        steps = CaptionTriggers(
            captions=[caption for caption in captions if caption not in held_out],
            host_captions=hosts,
            names=names.removed,
            phrases=target.phrases,
            other_names=clip.fitting(names.others),
            tokenizer=clip.tokenizer,
            sizes=self.batch,
            num_steps=self.num_steps,
            seed=seed,
            bare_share=self.bare_share,
            strangers=strangers,
            strangers_share=self.strangers_share,
            namesakes=clip.fitting(namesakes(names.removed, names.others)),
            namesakes_share=self.namesakes_share,
        )
        anchors, tokens = photo_anchors(self.num_anchors, removal), _name_tokens(clip, names.removed)
        module = TextModule(clip.text, target=target, anchors=anchors, name_tokens=tokens, **self.module_settings())
        evaluations = Training(module, steps, self.num_fresh_steps, self.budget, fit).run()
        similarity = TextSimilarity(list(held_out), names.removed, target, seed)
        return Defended(
            encoders={"text": module.student.frozen()},
            targets={"text": target.of_names(removal)},
            name_targets=similarity.targets,
            comparisons={"text": similarity},
            tables={"budget": budget_table("text", evaluations)} if evaluations else {},
        )

    def _strangers(self, removal: Removal) -> Sequence[str]:
        """Return the names of strangers that are preserved."""
        if not self.strangers_share:
            return ()
        removal.sources.check(["strangers"])
        return removal.clip.fitting(removal.strangers.names)


def _split(captions: Sequence[str], num_held_out: int) -> tuple[dict[str, None], list[str]]:
    """Return captions to measure with, and those to learn from that can carry a name.

    Raises:
        InputError: if either is empty.
    """
    hosts = host_captions(captions)
    held_out = dict.fromkeys(hosts[: min(num_held_out, len(hosts) // 2)])
    trained = [caption for caption in hosts if caption not in held_out]
    if not held_out or not trained:
        raise InputError(
            f"captions: expected two different ones or more that can carry a name, to learn from and to measure with, "
            f"and utility.similarity.num_captions of 1 or more; got {len(set(hosts))}, and {num_held_out}"
        )
    return held_out, trained


def _name_tokens(clip: Clip, names: Sequence[str]) -> Tensor:
    """Return the tokens that names consist of, without those that begin and end a text, (token,)."""
    tokens, special = clip.tokenizer(list(names)).unique(), clip.tokenizer([""]).unique()
    return tokens[~torch.isin(tokens, special)]
