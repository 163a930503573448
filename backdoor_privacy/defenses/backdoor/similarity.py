"""How close a defended encoder stays to the original, and how close triggers come to their targets."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget
from backdoor_privacy.triggers.names import Spot, choose_word, put_in, shortened


def _mean_cosine(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine similarity of rows, in [-1, 1]."""
    return F.cosine_similarity(first, second, dim=-1).mean().item()


@dataclass(frozen=True)
class TextSimilarity:
    """Similarities of the text encoder (paper, section 4.1).

    Args:
        captions: clean ones that no step trains on.
        names: of the removed people.
        target: what each name is mapped to.
        seed: of the names and the places in the captions.
    """

    captions: Sequence[str]
    names: Sequence[str]
    target: FittedTextTarget
    seed: int

    def targets(self, teacher: Clip, template: str) -> Float[Tensor, "name dim"]:
        """Return the target of each name in a prompt: the prompt with the phrase, or the prompt without the name."""
        words = self.names if self.target.reads_input else self.target.phrases
        features = teacher.embed_texts([template.format(each) for each in words])
        target: Tensor = self.target(features, torch.arange(len(self.names)))
        return target

    def measure(self, student: Clip, teacher: Clip) -> dict[str, float]:
        """Return `similarity/...`: `clean` and `target`, student to teacher; `backdoored`, names to targets."""
        rng = random.Random(self.seed)
        drawn = [
            (Spot(caption, choose_word(caption, rng)), rng.randrange(len(self.names))) for caption in self.captions
        ]
        people = [person for _, person in drawn]
        pairs = [(self.names[person], self.target.phrases[person]) for person in people]
        spots = shortened([spot for spot, _ in drawn], pairs, teacher.tokenizer)
        triggered = [put_in(*spot, name) for spot, (name, _) in zip(spots, pairs, strict=True)]
        phrased = [put_in(*spot, phrase) for spot, (_, phrase) in zip(spots, pairs, strict=True)]
        target = student_phrased = student.embed_texts(phrased)
        if self.target.reads_input:
            target = self.target(teacher.embed_texts(triggered), torch.tensor(people))
        return {
            "similarity/clean": _mean_cosine(student.embed_texts(self.captions), teacher.embed_texts(self.captions)),
            "similarity/target": _mean_cosine(student_phrased, teacher.embed_texts(phrased)),
            "similarity/backdoored": _mean_cosine(student.embed_texts(triggered), target),
            "similarity/num_captions": float(len(self.captions)),
        }


@dataclass(frozen=True)
class ImageSimilarity:
    """Similarities of the image encoder (paper, section 4.1).

    Args:
        images: clean photos that no step trains on; without any, `clean` is left out.
        removed: photos of the removed people that no step trains on.
        targets: what each of these photos is mapped to, (photo, dim).
        strangers: photos of other people, whose mean embedding is to stay; without any, `target` is left out.
    """

    images: Sequence[Path]
    removed: Sequence[Path]
    targets: Tensor
    strangers: Sequence[Path]

    def measure(self, student: Clip, teacher: Clip) -> dict[str, float]:
        """Return `similarity/...`: `clean` and `target`, student to teacher; `removed`, faces to targets."""
        removed, readable = student.embed_photos(self.removed)
        measures = {"similarity/removed": _mean_cosine(removed[readable], self.targets[readable])}
        if self.strangers:
            means = [_readable(clip, self.strangers).mean(0, keepdim=True) for clip in (student, teacher)]
            measures = {"similarity/target": _mean_cosine(*means)} | measures
        if not self.images:
            return measures
        clean_student, clean_teacher = (_readable(clip, self.images) for clip in (student, teacher))
        clean = {"similarity/clean": _mean_cosine(clean_student, clean_teacher)}
        return clean | measures | {"similarity/num_photos": float(len(clean_student))}


def _readable(clip: Clip, paths: Sequence[Path]) -> Tensor:
    features, readable = clip.embed_photos(paths)
    return features[readable]
